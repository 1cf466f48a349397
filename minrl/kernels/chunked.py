"""The linear recurrence in torch operations, on any device: time is cut into chunks that run side by side.

About four times the square root of T operations instead of T. Shapes: B batch, T time, D width, N chunks, C
steps of a chunk.
"""

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Up to here one operation per step is cheaper than the three passes over chunks.
_LOOP_LIMIT = 32


def linear_scan(
    decay: Tensor, drive: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `minrl.scan.linear_scan`."""
    if reset is not None:
        decay = decay.masked_fill(reset.unsqueeze(-1), 0.0)
    if state is None:
        state = drive.new_zeros(drive.shape[0], drive.shape[2])
    h: Tensor = _LinearScan.apply(decay, drive, state)  # type: ignore[no-untyped-call]
    return h, h[:, -1]


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, state: Tensor) -> Tensor:
        h = torch.empty_like(drive, memory_format=torch.contiguous_format)
        _scan_into(h, decay, drive, state, reverse=False)
        ctx.save_for_backward(decay, state, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With G_t the gradient of all that follows from h_t: G_t = dh_t + decay_{t+1} G_{t+1}."""
        decay, state, h = ctx.saved_tensors
        (dh,) = gradients
        # For complex numbers the adjoint of a product is the product with the conjugate.
        adjoint, h = decay.conj(), h.conj()
        g = torch.empty_like(h, memory_format=torch.contiguous_format)
        g[:, -1] = dh[:, -1]
        _scan_into(g[:, :-1], adjoint[:, 1:], dh[:, :-1], g[:, -1], reverse=True)
        d_decay = torch.empty_like(g)
        torch.mul(g[:, 1:], h[:, :-1], out=d_decay[:, 1:])
        torch.mul(g[:, 0], state.conj(), out=d_decay[:, 0])
        return d_decay, g, adjoint[:, 0] * g[:, 0]


def _scan_into(h: Tensor, decay: Tensor, drive: Tensor, state: Tensor, *, reverse: bool) -> None:
    """Write the recurrence from `state` into `h`, from the last step to the first if `reverse`."""
    steps = h.shape[1]
    if steps <= _LOOP_LIMIT:
        _loop_into(h, decay, drive, state, reverse=reverse)
        return
    chunk = isqrt(steps)
    whole = steps - steps % chunk
    # The steps beyond the last whole chunk come last in the order of the recurrence.
    first, rest = slice(0, whole), slice(whole, steps)
    if reverse:
        first, rest = slice(steps - whole, steps), slice(0, steps - whole)
    _chunks_into(h[:, first], decay[:, first], drive[:, first], state, chunk, reverse=reverse)
    if whole < steps:
        last = h[:, first][:, 0 if reverse else -1]
        _loop_into(h[:, rest], decay[:, rest], drive[:, rest], last, reverse=reverse)


def _loop_into(h: Tensor, decay: Tensor, drive: Tensor, state: Tensor, *, reverse: bool) -> None:
    """The recurrence, one operation per step of dimension 1."""
    steps = range(h.shape[1])
    for t in reversed(steps) if reverse else steps:
        torch.addcmul(drive[:, t], decay[:, t], state, out=h[:, t])
        state = h[:, t]


def _chunks_into(h: Tensor, decay: Tensor, drive: Tensor, state: Tensor, chunk: int, *, reverse: bool) -> None:
    """What each chunk does to a state, then the state that enters each chunk, then all chunks side by side."""
    h, decay, drive = (x.unflatten(1, (-1, chunk)) for x in (h, decay, drive))  # (B, N, C, D)
    order = list(reversed(range(chunk))) if reverse else list(range(chunk))
    product, local = decay[:, :, order[0]].clone(), drive[:, :, order[0]].clone()  # (B, N, D)
    for c in order[1:]:
        torch.addcmul(drive[:, :, c], decay[:, :, c], local, out=local)
        product.mul_(decay[:, :, c])
    entering = torch.empty_like(local)
    count = h.shape[1]
    for n in reversed(range(count)) if reverse else range(count):
        entering[:, n] = state
        state = torch.addcmul(local[:, n], product[:, n], state)
    for c in order:
        torch.addcmul(drive[:, :, c], decay[:, :, c], entering, out=h[:, :, c])
        entering = h[:, :, c]
