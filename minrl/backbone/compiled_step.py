"""One step of a whole backbone of minGRU or minLSTM blocks as a single call, on a CPU where no gradient is needed.

Shapes: B batch, D width, S state size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from minrl.cells.convolution import ShortConvolution
from minrl.cells.mingru import MinGRU
from minrl.cells.minlstm import MinLSTM
from minrl.kernels.guard import Watch, may_run, plain, readable
from minrl.kernels.scan import cpu

# Beyond these, torch spreads its products over threads; one thread is slower with them at any number of rows.
MOST_ROWS, MOST_ROWS_OF_ONE_THREAD = 64, 512


@dataclass(frozen=True)
class Stack:
    """What a backbone is made of and where its weights lie, in the order of `cpu_step_loops`."""

    kind: tuple[int, int]  # parts of the gates, candidate
    weights: tuple[Tensor | None, ...]
    epsilons: tuple[float, ...]
    sizes: tuple[int, int, int, int, int]  # D, H, M, K and the number of blocks
    signed: bool
    state_size: int


@dataclass(frozen=True)
class Plan:
    """A compiled step; the values of the weights are read anew at every call."""

    kernel: Any
    addresses: Any  # int64
    epsilons: Any
    sizes: tuple[Any, ...]
    width: int
    state_size: int
    watch: Watch


_plans: WeakKeyDictionary[nn.Module, Plan | None] = WeakKeyDictionary()


def step(backbone: nn.Module, block: type[nn.Module], x: Tensor, state: Tensor) -> tuple[Tensor, Tensor] | None:
    """`Backbone.step` for x (B, D), state (B, S) and blocks of type `block`; None where it is not for this kernel."""
    if not (may_run() and plain(x, 2) and plain(state, 2) and takes(x.shape[0])):
        return None
    plan = _plans.get(backbone)
    if plan is None or not plan.watch.holds():
        plan = _plans[backbone] = _build(backbone, block)
    return None if plan is None or plan.watch.drops() else _run(plan, x, state)


def _run(plan: Plan, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor] | None:
    batch, width = x.shape
    if width != plan.width or state.shape != (batch, plan.state_size):
        return None
    x = x.contiguous()
    if state.stride(1) != 1:
        state = state.contiguous()
    # Like their inputs, not by torch's default type or device, which may be another.
    y, last = torch.empty_like(x), torch.empty_like(state, memory_format=torch.contiguous_format)
    plan.kernel(
        plan.addresses, plan.epsilons, x.data_ptr(), state.data_ptr(), state.stride(0), y.data_ptr(), last.data_ptr(),
        batch, *plan.sizes,
    )  # fmt: skip
    return y, last


def _build(backbone: nn.Module, block_type: type[nn.Module]) -> Plan | None:
    """The plan of a backbone that the kernel takes, else None."""
    stack = stack_of(backbone, block_type)
    if stack is None:
        return None
    watch = Watch.over(backbone, (weight for weight in stack.weights if weight is not None))
    if watch is None:
        return None
    from minrl.kernels.backbone import step_loops  # it imports numba

    return Plan(
        kernel=step_loops.step_kernel(*stack.kind),
        addresses=addresses(stack.weights),
        epsilons=np.array(stack.epsilons, np.float32),
        sizes=(*stack.sizes, stack.state_size, np.float32(stack.signed)),
        width=stack.sizes[0],
        state_size=stack.state_size,
        watch=watch,
    )


def takes(rows: int) -> bool:
    """Whether so many rows are for the kernels."""
    return 0 < rows <= (MOST_ROWS if rows <= MOST_ROWS or torch.get_num_threads() > 1 else MOST_ROWS_OF_ONE_THREAD)


def addresses(tensors: Iterable[Tensor | None]) -> Any:
    """Where tensors lie, int64; 0 for those that are not there."""
    return np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors], np.int64)


def stack_of(backbone: Any, block_type: type[nn.Module]) -> Stack | None:
    """The parts of a backbone that the kernels take, else None."""
    blocks = list(backbone.blocks)
    if not all(is_known(block, block_type) for block in blocks) or not is_norm(backbone.norm) or not cpu.available():
        return None
    cell: Any = blocks[0].cell
    rows = [block_parts(block) for block in blocks]
    shapes = {(type(block.cell), block.cell.candidate, block.cell.signed, block_sizes(block)) for block in blocks}
    norms = [norm for block in blocks for norm in (block.norm, block.norm if block.mlp is None else block.mlp[0])]
    norms.append(backbone.norm)
    if len(shapes) != 1:
        return None
    weights = [part for row in rows for part in row] + [backbone.norm.weight, backbone.norm.bias]
    if not readable(weight for weight in weights if weight is not None):
        return None
    from minrl.kernels.scan import cpu_gates  # it imports numba

    return Stack(
        kind=(2 if type(cell) is MinGRU else 3, cpu_gates.CANDIDATES[cell.candidate]),
        weights=tuple(weights),
        epsilons=tuple(norm.eps for norm in norms),
        sizes=(backbone.width, *block_sizes(blocks[0]), len(blocks)),
        signed=cell.signed,
        state_size=backbone.state_size,
    )


def block_sizes(block: Any) -> tuple[int, int, int]:
    """H, M and K; 0 for what is not there."""
    hidden = 0 if block.mlp is None else block.mlp[1].out_features
    return block.cell.state_size, hidden, 0 if block.conv is None else block.conv.taps


def is_known(block: Any, block_type: type[nn.Module]) -> bool:
    """Return True if a block is of `block_type`, of a cell that the kernels know, and of modules of the usual types."""
    if type(block) is not block_type or type(block.cell) not in (MinGRU, MinLSTM) or not is_norm(block.norm):
        return False
    parts: Any = block
    conv, mlp, gates, down = parts.conv, parts.mlp, parts.cell.gates, parts.cell.down
    if conv is not None and type(conv) is not ShortConvolution:
        return False
    if type(gates) is not nn.Linear or (type(down) is not nn.Identity and not _is_linear(down, bias=False)):
        return False
    if mlp is None:
        return True
    if type(mlp) is not nn.Sequential or list(map(type, mlp.children()))[1:] != [nn.Linear, nn.GELU, nn.Linear]:
        return False
    return is_norm(mlp[0]) and mlp[2].approximate == "none"


def block_parts(block: Any) -> list[Tensor | None]:
    """List the weights of a block that `is_known`, in the kernel's order."""
    cell, conv, mlp = block.cell, block.conv, block.mlp
    down = None if type(cell.down) is nn.Identity else cell.down
    return [
        *_both(block.norm),
        *_both(conv),
        *_both(cell.gates),
        _both(down)[0],
        *(_both(None) * 3 if mlp is None else [*_both(mlp[0]), *_both(mlp[1]), *_both(mlp[3])]),
    ]


def _both(module: Any) -> list[Tensor | None]:
    return [None, None] if module is None else [module.weight, module.bias]


def _is_linear(module: Any, *, bias: bool) -> bool:
    return type(module) is nn.Linear and (module.bias is not None) == bias


def is_norm(norm: Any) -> bool:
    """Return True if a module is the layer norm that the kernels know."""
    return type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None
