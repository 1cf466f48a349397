"""One step of a whole backbone of minGRU or minLSTM blocks as a single call, on a CPU where no gradient is needed.

Shapes: B batch, D width, S state size.
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from minrl.backbone.weights import addresses, stack_weights
from minrl.kernels.guard import Watch, may_run, plain, planned

# Beyond these, torch splits its matmuls over threads; the kernel is slower than torch on one thread too.
MOST_ROWS, MOST_ROWS_OF_ONE_THREAD = 64, 512


@dataclass(frozen=True)
class CompiledStep:
    """Compiled step of a backbone; the values of the weights are read at every call."""

    kernel: Any
    addresses: Any  # int64
    epsilons: Any
    sizes: tuple[Any, ...]
    width: int
    state_size: int
    watch: Watch


_steps: WeakKeyDictionary[nn.Module, CompiledStep | None] = WeakKeyDictionary()


def step(backbone: nn.Module, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor] | None:
    """Run `Backbone.step` compiled for x (B, D), state (B, S); return None if the kernel does not support it."""
    if not (may_run() and plain(x, 2) and plain(state, 2) and takes(x.shape[0])):
        return None
    plan = planned(_steps, backbone, _build)
    return None if plan is None or plan.watch.has_dropout() else _run(plan, x, state)


def _run(plan: CompiledStep, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor] | None:
    batch, width = x.shape
    if width != plan.width or state.shape != (batch, plan.state_size):
        return None
    x = x.contiguous()
    if state.stride(1) != 1:
        state = state.contiguous()
    # Type and device of the inputs, not torch's defaults, which may differ.
    y, last = torch.empty_like(x), torch.empty_like(state, memory_format=torch.contiguous_format)
    plan.kernel(
        plan.addresses, plan.epsilons, x.data_ptr(), state.data_ptr(), state.stride(0), y.data_ptr(), last.data_ptr(),
        batch, *plan.sizes,
    )  # fmt: skip
    return y, last


def _build(backbone: nn.Module) -> CompiledStep | None:
    """Build the compiled step of a backbone that the kernel supports, else return None."""
    stack = stack_weights(backbone)
    if stack is None:
        return None
    watch = Watch.over(backbone, (weight for weight in stack.weights if weight is not None))
    if watch is None:
        return None
    from minrl.kernels.backbone import cells, step_loops  # they import numba

    return CompiledStep(
        kernel=step_loops.step_kernel(),
        addresses=addresses(stack.weights),
        epsilons=np.array(stack.epsilons, np.float32),
        sizes=(
            *stack.sizes,
            *cells.of_kind(stack.kind, stack.sizes[1]),
            step_loops.blocks_address(),
            stack.state_size,
            np.float32(stack.signed),
        ),
        width=stack.sizes[0],
        state_size=stack.state_size,
        watch=watch,
    )


def takes(rows: int) -> bool:
    """Return True if the kernels take a batch of `rows` rows."""
    return 0 < rows <= (MOST_ROWS if rows <= MOST_ROWS or torch.get_num_threads() > 1 else MOST_ROWS_OF_ONE_THREAD)
