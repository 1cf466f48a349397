"""Compiled loops of a block's layer norm and short convolution in one pass, and back; see `loops`.

Shapes: B batch, T time, D width, S state size, K taps.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.backbone.norm_gelu import normalise, normalise_gradients, scaled, tap_gradients
from minrl.kernels.jit.compile import compiled, inlined
from minrl.kernels.jit.memory import matrix, vector
from minrl.kernels.jit.rows import add, add_product, copy_row
from minrl.kernels.jit.threads import ROWS_PER_ITEM

_ZERO, _BYTE = np.float32(0), np.uint8(0)


@inlined
def opens_between(reset: Any, after: int, end: int) -> bool:
    """Return True if an episode opens at a step later than `after` and before `end`."""
    for t in range(max(after + 1, 0), end):  # noqa: SIM110, no generator in compiled code
        if reset[t]:
            return True
    return False


@inlined
def keep_last(y: Any, last: Any, reset: Any, t: int, steps: int, past: int, width: int) -> None:
    """Save the input of step t, one of the last K - 1, to the state; zero if its episode has ended."""
    at = (t - steps + past) * width
    if opens_between(reset, t, steps):
        last[at : at + width] = _ZERO
    else:
        copy_row(y, last[at : at + width], width)


@inlined
def convolve(window: Any, slot: int, tap: Any, shift: Any, reset: Any, t: int, u: Any, width: int) -> None:
    """Compute u_t from the inputs of step t, at `slot` of the window, and of up to K - 1 steps before it."""
    past = tap.shape[0] - 1
    copy_row(shift, u, width)
    add_product(u, tap[past], window[slot], width)
    for lag in range(1, past + 1):
        if t - lag + 1 >= 0 and reset[t - lag + 1]:
            break
        add_product(u, tap[past - lag], window[slot - lag], width)


def mix_pieces(
    first: int, end: int, x_at: int, recent_at: int, reset_at: int, weight_at: int, bias_at: int, taps_at: int,
    shift_at: int, u_at: int, stats_at: int, last_at: int,
    batch: int, steps: int, width: int, taps: int, state_size: int, epsilon: Any,
) -> None:  # fmt: skip
    """Compute the layer norm of x (B, T, D) and the convolution to u.

    `recent` and `last` are columns of states (B, S).
    """
    x, u = matrix(x_at, batch * steps, width, epsilon), matrix(u_at, batch * steps, width, epsilon)
    stats, resets = matrix(stats_at, batch * steps, 2, epsilon), matrix(reset_at, batch, steps, _BYTE)
    recents, lasts = matrix(recent_at, batch, state_size, epsilon), matrix(last_at, batch, state_size, epsilon)
    weight, bias = vector(weight_at, width, epsilon), vector(bias_at, width, epsilon)
    tap, shift = matrix(taps_at, taps, width, epsilon), vector(shift_at, width, epsilon)
    past, pieces = taps - 1, (steps + ROWS_PER_ITEM - 1) // ROWS_PER_ITEM
    window = np.empty((past + ROWS_PER_ITEM, width), x.dtype)
    _mix(
        first, end, x, recents, resets, weight, bias, tap, shift, u, stats, lasts, window, steps, width, past, pieces,
        epsilon,
    )  # fmt: skip


@inlined
def _mix(
    first: int, end: int, x: Any, recents: Any, resets: Any, weight: Any, bias: Any, tap: Any, shift: Any, u: Any,
    stats: Any, lasts: Any, window: Any, steps: int, width: int, past: int, pieces: int, epsilon: Any,
) -> None:  # fmt: skip
    for item in range(first, end):
        b, start = item // pieces, item % pieces * ROWS_PER_ITEM
        reset, recent, last = resets[b], recents[b], lasts[b]
        for t in range(start - past, min(start + ROWS_PER_ITEM, steps)):
            slot, n = t - start + past, b * steps + t
            y = window[slot]
            if t >= 0:
                stats[n, 0], stats[n, 1] = normalise(x[n], weight, bias, epsilon, y, width)
            else:
                copy_row(recent[(t + past) * width : (t + past + 1) * width], y, width)
            if t >= steps - past and (t >= start or start == 0):
                keep_last(y, last, reset, t, steps, past, width)
            if t >= start:
                convolve(window, slot, tap, shift, reset, t, u[n], width)


@cache
def mix_forward() -> Callable[..., None]:
    """Build the kernel of `mix_pieces`."""
    return compiled(mix_pieces)


@inlined
def taps_backward(
    y: Any, du: Any, first: int, steps: int, t: int, tap: Any, reset: Any, dlast: Any, dy: Any, dtap: Any, width: int
) -> None:
    """Compute the gradient to the input y of step t from the later steps and the state that it enters."""
    past = tap.shape[0] - 1
    dy[:] = _ZERO
    if t >= 0:
        tap_gradients(tap[past], y, du[first + t], dy, dtap[past], width)
    for lag in range(max(1, -t), past + 1):
        if t + lag == steps:
            at = (t - steps + past) * width
            add(dy, dlast[at : at + width], width)
            break
        if reset[t + lag]:
            break
        tap_gradients(tap[past - lag], y, du[first + t + lag], dy, dtap[past - lag], width)


def mix_pieces_backward(
    first: int, end: int, sums_at: int, x_at: int, stats_at: int, recent_at: int, reset_at: int, weight_at: int,
    bias_at: int, taps_at: int, du_at: int, dlast_at: int, around_at: int, dx_at: int, drecent_at: int,
    batch: int, steps: int, width: int, taps: int, state_size: int, like: Any,
) -> None:  # fmt: skip
    """Compute from du (B, T, D) and `dlast` (B, S) dx, plus `around` (B, T, D), and `drecent` (B, S).

    Sums: the norm's weight and bias (2, D), the taps (K, D) and their bias (D).
    """
    rows, past, pieces = batch * steps, taps - 1, (steps + ROWS_PER_ITEM - 1) // ROWS_PER_ITEM
    x, stats = matrix(x_at, rows, width, like), matrix(stats_at, rows, 2, like)
    du = matrix(du_at, rows, width, like)
    around, dx = matrix(around_at, rows, width, like), matrix(dx_at, rows, width, like)
    recents, resets = matrix(recent_at, batch, state_size, like), matrix(reset_at, batch, steps, _BYTE)
    dlasts, drecents = matrix(dlast_at, batch, state_size, like), matrix(drecent_at, batch, state_size, like)
    weight, bias = vector(weight_at, width, like), vector(bias_at, width, like)
    tap = matrix(taps_at, taps, width, like)
    sums, partial = vector(sums_at, (taps + 3) * width, like), np.empty((taps + 3, width), x.dtype)
    y, dy = np.empty(width, x.dtype), np.empty(width, x.dtype)
    _mix_backward(
        first, end, x, stats, recents, resets, weight, bias, tap, du, dlasts, around, dx, drecents, sums, partial, y,
        dy, steps, width, past, pieces,
    )  # fmt: skip


@inlined
def _mix_backward(
    first: int, end: int, x: Any, stats: Any, recents: Any, resets: Any, weight: Any, bias: Any, tap: Any, du: Any,
    dlasts: Any, around: Any, dx: Any, drecents: Any, sums: Any, partial: Any, y: Any, dy: Any, steps: int, width: int,
    past: int, pieces: int,
) -> None:  # fmt: skip
    taps = past + 1
    for item in range(first, end):
        b, start = item // pieces, item % pieces * ROWS_PER_ITEM
        reset, recent, dlast, drecent = resets[b], recents[b], dlasts[b], drecents[b]
        partial[:] = _ZERO
        if start == 0:
            for t in range(-past, 0):
                columns = slice((t + past) * width, (t + past + 1) * width)
                copy_row(recent[columns], y, width)
                taps_backward(y, du, b * steps, steps, t, tap, reset, dlast, dy, partial[2:], width)
                copy_row(dy, drecent[columns], width)
        for t in range(start, min(start + ROWS_PER_ITEM, steps)):
            n = b * steps + t
            mean, scale = stats[n, 0], stats[n, 1]
            scaled(x[n], mean, scale, weight, bias, y, width)
            add(partial[taps + 2], du[n], width)
            taps_backward(y, du, b * steps, steps, t, tap, reset, dlast, dy, partial[2:], width)
            normalise_gradients(x[n], mean, scale, weight, dy, dx[n], partial[0], partial[1], width)
            if around.size:
                add(dx[n], around[n], width)
        for k in range(taps + 3):
            add(sums[k * width :], partial[k], width)


@cache
def mix_backward() -> Callable[..., None]:
    """Build the kernel of `mix_pieces_backward`."""
    return compiled(mix_pieces_backward)
