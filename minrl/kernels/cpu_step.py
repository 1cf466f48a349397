"""One step of a whole backbone of minGRU or minLSTM blocks as a single call, on a CPU where no gradient is needed.

Shapes: B batch, D width, S state size.
"""

import operator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from minrl.cells.mingru import MinGRU
from minrl.cells.minlstm import MinLSTM
from minrl.convolution import ShortConvolution
from minrl.kernels import cpu

# Rows from which torch's matrix product is faster than one product of a matrix and a vector for each.
MOST_ROWS = 32


@dataclass(frozen=True)
class Plan:
    """What a backbone is made of and where its weights lie; their values are read anew at every step."""

    kernel: Any
    addresses: Any  # int64, in the order of cpu_step_loops
    epsilons: Any
    sizes: tuple[Any, ...]
    # The module or parameter that each name in each owner stood for.
    owners: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    members: tuple[Any, ...]
    parameters: tuple[Tensor, ...]
    pointers: tuple[int, ...]
    hooks: tuple[Any, ...]
    dropouts: tuple[nn.Dropout, ...]

    def holds(self) -> bool:
        """Whether nothing has been replaced, moved or hooked since."""
        return (
            all(map(operator.is_, map(dict.get, self.owners, self.names), self.members))
            and tuple(map(Tensor.data_ptr, self.parameters)) == self.pointers
            and not any(self.hooks)
        )


_is_tracing: Any = torch.jit.is_tracing  # type: ignore[attr-defined]
_plans: WeakKeyDictionary[nn.Module, Plan | None] = WeakKeyDictionary()


def step(backbone: nn.Module, block: type[nn.Module], x: Tensor, state: Tensor) -> tuple[Tensor, Tensor] | None:
    """`Backbone.step` for x (B, D), state (B, S) and blocks of type `block`; None where it is not for this kernel."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or _is_tracing():
        return None
    if not (_plain(x) and _plain(state) and 0 < x.shape[0] <= MOST_ROWS) or torch.is_autocast_enabled("cpu"):
        return None
    try:
        plan = _plan_of(backbone, block)
        return None if plan is None or _drops(plan) else _run(plan, x, state)
    except RuntimeError:  # a tensor without memory, as under torch.func
        return None


def _drops(plan: Plan) -> bool:
    for dropout in plan.dropouts:  # noqa: SIM110, a loop takes half the time of any()
        if dropout.training and dropout.p:
            return True
    return False


def _plain(x: Tensor) -> bool:
    return type(x) is Tensor and x.dtype is torch.float32 and x.is_cpu and x.dim() == 2


def _plan_of(backbone: nn.Module, block: type[nn.Module]) -> Plan | None:
    """The plan as it is, made anew where something was replaced."""
    plan = _plans.get(backbone)
    if plan is None or not plan.holds():
        plan = _build(backbone, block)
        _plans[backbone] = plan
    return plan


def _run(plan: Plan, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor] | None:
    batch, width = x.shape
    state_size = plan.sizes[5]
    if width != plan.sizes[0] or state.shape != (batch, state_size):
        return None
    x = x.contiguous()
    if state.stride(1) != 1:
        state = state.contiguous()
    y, last = torch.empty_like(x), torch.empty(batch, state_size)
    plan.kernel(
        plan.addresses, plan.epsilons, x.data_ptr(), state.data_ptr(), state.stride(0), y.data_ptr(), last.data_ptr(),
        batch, *plan.sizes,
    )  # fmt: skip
    return y, last


def _build(backbone: Any, block_type: type[nn.Module]) -> Plan | None:
    """The plan of a backbone that the kernel takes, else None."""
    blocks = list(backbone.blocks)
    cell = blocks[0].cell
    if type(cell) not in (MinGRU, MinLSTM) or not cpu.available():
        return None
    if any(type(block) is not block_type for block in blocks):
        return None
    rows = [block_parts(block) for block in blocks]
    shapes = {(type(block.cell), block.cell.candidate, block.cell.signed, block_sizes(block)) for block in blocks}
    norms = [norm for block in blocks for norm in (block.norm, block.norm if block.mlp is None else block.mlp[0])]
    norms.append(backbone.norm)
    if len(shapes) != 1 or any(row is None for row in rows) or not all(map(is_norm, norms)):
        return None
    parts = [part for row in rows if row is not None for part in row] + [backbone.norm.weight, backbone.norm.bias]
    parameters = tuple(part for part in parts if part is not None)
    if any(p.dtype != torch.float32 or p.device.type != "cpu" or not p.is_contiguous() for p in parameters):
        return None
    from minrl.kernels import cpu_rows, cpu_step_loops  # they import numba

    modules = list(backbone.modules())
    members = [
        (owner, name, member)
        for module in modules
        for owner in (module._modules, module._parameters)
        for name, member in owner.items()
    ]
    owners, names, values = zip(*members, strict=True)
    kernel = cpu_step_loops.step_kernel(2 if type(cell) is MinGRU else 3, cpu_rows.CANDIDATES[cell.candidate])
    plan = Plan(
        kernel=kernel,
        addresses=np.array([0 if part is None else part.data_ptr() for part in parts], np.int64),
        epsilons=np.array([norm.eps for norm in norms], np.float32),
        sizes=(backbone.width, *block_sizes(blocks[0]), len(blocks), backbone.state_size, np.float32(cell.signed)),
        owners=owners,
        names=names,
        members=values,
        parameters=parameters,
        pointers=tuple(part.data_ptr() for part in parameters),
        hooks=tuple(hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)),
        dropouts=tuple(block.dropout for block in blocks),
    )
    return plan if not any(plan.hooks) else None


def block_sizes(block: Any) -> tuple[int, int, int]:
    """H, M and K; 0 for what is not there."""
    hidden = 0 if block.mlp is None else block.mlp[1].out_features
    return block.cell.state_size, hidden, 0 if block.conv is None else block.conv.taps


def block_parts(block: Any) -> list[Tensor | None] | None:
    """The weights of a block in the kernel's order; None where one of its modules is not what it is made with."""
    cell, conv, mlp = block.cell, block.conv, block.mlp
    down = None if type(cell.down) is nn.Identity else cell.down
    linears = [cell.gates, *([] if down is None else [down]), *([] if mlp is None else [mlp[1], mlp[3]])]
    if any(type(linear) is not nn.Linear for linear in linears) or type(conv) not in (type(None), ShortConvolution):
        return None
    if down is not None and down.bias is not None:
        return None
    if mlp is not None and (len(mlp) != 4 or type(mlp[2]) is not nn.GELU or mlp[2].approximate != "none"):
        return None
    return [
        *_both(block.norm),
        *_both(conv),
        *_both(cell.gates),
        _both(down)[0],
        *(_both(None) * 3 if mlp is None else [*_both(mlp[0]), *_both(mlp[1]), *_both(mlp[3])]),
    ]


def _both(module: Any) -> list[Tensor | None]:
    return [None, None] if module is None else [module.weight, module.bias]


def is_norm(norm: Any) -> bool:
    """Whether a module is the layer norm that the kernels know."""
    return type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None
