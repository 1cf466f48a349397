"""A compiled recurrence on a CPU as one node of the autograd graph, and helpers for its tensors.

A kernel has first derivatives in reverse mode. If a backward pass is itself differentiated, the same recurrence runs in
torch's operations.

Shapes: B batch, T time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minrl.kernels.differentiable import gradients_of
from minrl.kernels.guard import gradients_are_differentiated, runs_alone
from minrl.kernels.jit.threads import share_items
from minrl.kernels.scan import cpu

# Below this many multiply-adds a second thread costs more than it saves.
WORK_PER_THREAD = 1 << 21

Tensors = tuple[Tensor | None, ...]


class Saved(NamedTuple):
    """Tensors of a forward pass for the backward pass."""

    inputs: Tensors
    kept: tuple[Any, ...]
    needed: tuple[bool, ...]  # of each input, True if its gradient is


@dataclass(frozen=True)
class Recurrence:
    """Recurrence in three forms with the same inputs.

    Args:
        forward: (*inputs, keep=) -> outputs, and the tensors for the backward pass if `keep`.
        backward: (saved, *gradients to outputs) -> the gradients to the inputs; None is zero.
        in_torch: (*inputs) -> outputs, in torch's operations.
    """

    forward: Callable[..., tuple[tuple[Tensor, ...], Tensors]]
    backward: Callable[..., Tensors]
    in_torch: Callable[..., tuple[Tensor, ...]]

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """Compute the outputs of inputs that `takes` accepts."""
        if torch.is_grad_enabled():
            outputs: tuple[Tensor, ...] = _Node.apply(self, *inputs)  # type: ignore[no-untyped-call]
            return outputs
        return self.forward(*inputs, keep=False)[0]


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recurrence: Recurrence, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        outputs, kept = recurrence.forward(*inputs, keep=any(ctx.needs_input_grad))
        ctx.recurrence = recurrence
        ctx.save_for_backward(*inputs, *kept)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        needed, recurrence = ctx.needs_input_grad[1:], ctx.recurrence
        inputs, kept = ctx.saved_tensors[: len(needed)], ctx.saved_tensors[len(needed) :]
        if gradients_are_differentiated(*gradients):
            return None, *gradients_of(recurrence.in_torch, inputs, needed, gradients)
        return None, *recurrence.backward(Saved(inputs, kept, needed), *gradients)


def takes(x: Tensor) -> bool:
    """Return True if the kernels take inputs like `x`: plain tensors, neither recorded nor transformed."""
    return type(x) in (Tensor, torch.nn.Parameter) and runs_alone() and cpu.takes(x)


def argument(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return `x` contiguous; raise ValueError for a shape beyond which the kernel would read."""
    if x.shape != shape or x.dtype != dtype or not x.is_cpu:
        got = f"{x.dtype} {tuple(x.shape)} on {x.device}"
        raise ValueError(f"{name} must be {dtype} of shape {shape} on the CPU, got {got}")
    return x.contiguous()


def optional(name: str, x: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """Return `argument` of a tensor, None of None."""
    return None if x is None else argument(name, x, shape, dtype)


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """Return tensors contiguous."""
    return [None if x is None else x.contiguous() for x in tensors]


def flat(x: Tensor) -> Tensor:
    """Compute (B, T, D) -> (BT, D)."""
    return x.reshape(-1, x.shape[2])


def like(x: Tensor) -> Any:
    """Return a number in the precision of `x`."""
    return np.float64(0) if x.dtype == torch.float64 else np.float32(0)


def run_rows(
    kernel: Callable[..., None], tensors: Sequence[Tensor | None], batch: int, work: int, *options: Any
) -> None:
    """Share batch rows among as many threads as torch has.

    Args:
        kernel: (*addresses, first, end, *options): runs the rows `first` to `end`; an absent tensor has address 0.
        tensors: that it reads and writes, contiguous.
        batch: B.
        work: multiply-adds of all rows.
        options: the rest of its arguments.
    """
    addresses = [0 if x is None else x.data_ptr() for x in tensors]
    share_items(lambda thread, first, end: kernel(*addresses, first, end, *options), batch, work, WORK_PER_THREAD)
