"""The linear recurrence in torch operations, on any device: time is cut into chunks that run side by side.

About four times the square root of T operations instead of T. Shapes: B batch, T time, D width, N chunks, C
steps of a chunk.
"""

from math import isqrt
from typing import Any

import torch
from torch import Tensor

from minrl.kernels import differentiable
from minrl.kernels.guard import gradients_are_differentiated, under_transform

# Up to here one operation per step is cheaper than the three passes over chunks.
_LOOP_LIMIT = 32


def linear_scan(
    decay: Tensor, drive: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `minrl.scan.linear_scan`, forward and backward without a product across a reset."""
    if under_transform():
        return differentiable.linear_scan(decay, drive, state, reset)
    if state is None:
        state = drive.new_zeros(drive.shape[0], drive.shape[2])
    h: Tensor = _LinearScan.apply(decay, drive, state, reset)  # type: ignore[no-untyped-call]
    return h, h[:, -1]


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, state: Tensor, reset: Tensor | None) -> Tensor:
        h = torch.empty_like(drive, memory_format=torch.contiguous_format)
        opens = None if reset is None else reset.unsqueeze(-1)
        _scan_into(h, decay, drive, state, opens, reverse=False)
        ctx.save_for_backward(decay, state, opens, h)
        return h

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute gradients by G_t = dh_t + decay_{t+1} G_{t+1}, the total gradient to h_t."""
        decay, state, opens, h = ctx.saved_tensors
        (dh,) = gradients
        if gradients_are_differentiated(dh):
            reset = None if opens is None else opens.squeeze(-1)
            return *differentiable.linear_gradients(decay, state, reset, h, dh, torch.zeros_like(state)), None
        # For complex numbers the adjoint of a product is the product with the conjugate.
        adjoint, h = decay.conj(), h.conj()
        g = torch.empty_like(h, memory_format=torch.contiguous_format)
        g[:, -1] = dh[:, -1]
        following = None if opens is None else opens[:, 1:]
        _scan_into(g[:, :-1], adjoint[:, 1:], dh[:, :-1], g[:, -1], following, reverse=True)
        d_decay = torch.empty_like(g)
        torch.mul(g[:, 1:], h[:, :-1], out=d_decay[:, 1:])
        torch.mul(g[:, 0], state.conj(), out=d_decay[:, 0])
        d_state = adjoint[:, 0] * g[:, 0]
        if opens is not None:
            d_decay.masked_fill_(opens, 0.0)
            d_state.masked_fill_(opens[:, 0], 0.0)
        return d_decay, g, d_state, None


def _scan_into(h: Tensor, decay: Tensor, drive: Tensor, state: Tensor, opens: Tensor | None, *, reverse: bool) -> None:
    """Write the recurrence from `state` into `h`, from the last step to the first if `reverse`.

    Where `opens` (B, T, 1), the state of the step before, in that order, is dropped by selection: a decay of zero
    times NaN or infinity is NaN.
    """
    steps = h.shape[1]
    if steps <= _LOOP_LIMIT:
        _loop_into(h, decay, drive, state, opens, reverse=reverse)
        return
    chunk = isqrt(steps)
    whole = steps - steps % chunk
    # The steps beyond the last whole chunk come last in the order of the recurrence.
    first, rest = slice(0, whole), slice(whole, steps)
    if reverse:
        first, rest = slice(steps - whole, steps), slice(0, steps - whole)
    _chunks_into(h[:, first], decay[:, first], drive[:, first], state, _at(opens, first), chunk, reverse=reverse)
    if whole < steps:
        last = h[:, first][:, 0 if reverse else -1]
        _loop_into(h[:, rest], decay[:, rest], drive[:, rest], last, _at(opens, rest), reverse=reverse)


def _at(opens: Tensor | None, steps: slice) -> Tensor | None:
    return None if opens is None else opens[:, steps]


def _loop_into(h: Tensor, decay: Tensor, drive: Tensor, state: Tensor, opens: Tensor | None, *, reverse: bool) -> None:
    """Run the recurrence, one operation per step of dimension 1."""
    steps = range(h.shape[1])
    for t in reversed(steps) if reverse else steps:
        if opens is not None:
            state = torch.where(opens[:, t], 0.0, state)  # a third of the time of masked_fill
        torch.addcmul(drive[:, t], decay[:, t], state, out=h[:, t])
        state = h[:, t]


def _chunks_into(
    h: Tensor, decay: Tensor, drive: Tensor, state: Tensor, opens: Tensor | None, chunk: int, *, reverse: bool
) -> None:
    """Find the effect of each chunk on a state, then the state that enters each chunk, then run all side by side."""
    h, decay, drive = (x.unflatten(1, (-1, chunk)) for x in (h, decay, drive))  # (B, N, C, D)
    opens = None if opens is None else opens.unflatten(1, (-1, chunk))
    order = list(reversed(range(chunk))) if reverse else list(range(chunk))
    product, local = decay[:, :, order[0]].clone(), drive[:, :, order[0]].clone()  # (B, N, D)
    for c in order[1:]:
        if opens is not None:
            local = torch.where(opens[:, :, c], 0.0, local)
        torch.addcmul(drive[:, :, c], decay[:, :, c], local, out=local)
        product.mul_(decay[:, :, c])
    closed = None if opens is None else opens.any(dim=2)  # (B, N, 1), chunks with a reset, which no state crosses
    entering = torch.empty_like(local)
    count = h.shape[1]
    for n in reversed(range(count)) if reverse else range(count):
        entering[:, n] = state
        passed = torch.addcmul(local[:, n], product[:, n], state)
        state = passed if closed is None else torch.where(closed[:, n], local[:, n], passed)
    for c in order:
        if opens is not None:
            entering = torch.where(opens[:, :, c], 0.0, entering)
        torch.addcmul(drive[:, :, c], decay[:, :, c], entering, out=h[:, :, c])
        entering = h[:, :, c]
