"""The compiled loops of S4D on a CPU: complex states with constant decays, outputs and resets at every step, and the
adjoint.

Channels are lanes, and the states of a block of channels are rows of lanes, real and imaginary parts apart. Tensors
are read and written where torch keeps them, through their addresses; an address of 0 is one that is not there. One
call does all steps of the batch rows `first` to `end`.

Shapes: B batch, T time, D channels, M states of a channel, L lanes of a block.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import allocating, compiled, inlined
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import copy_row
from minrl.kernels.lstm.cpu_loops import opens

# Steps of a chunk, whose states the backward pass recomputes for a block of channels: with M = 32 they fill a quarter
# of the second cache.
CHUNK = 16
LANES = 64
_ZERO = np.float32(0)
# Numba tests signed indices for counting from the end, which prevents vector code.
_U = np.uintp


@inlined
def advance_row(x: Any, y: Any, new_x: Any, new_y: Any, weights: Any, at: int, width: int, u: Any, lanes: int) -> None:
    """Compute one state x + iy of each channel from the one before."""
    a, b, e, f = _U(at), _U(at + width), _U(at + 2 * width), _U(at + 3 * width)
    for d in range(_U(lanes)):
        real, imaginary, drive = x[d], y[d], u[d]
        new_x[d] = weights[a + d] * real - weights[b + d] * imaginary + weights[e + d] * drive
        new_y[d] = weights[a + d] * imaginary + weights[b + d] * real + weights[f + d] * drive


@inlined
def advance_and_read(x: Any, y: Any, weights: Any, at: int, width: int, u: Any, out: Any, lanes: int) -> None:
    """Compute `advance_row` in place, and add its part to the outputs."""
    a, b, e, f = _U(at), _U(at + width), _U(at + 2 * width), _U(at + 3 * width)
    p, q = _U(at + 4 * width), _U(at + 5 * width)
    for d in range(_U(lanes)):
        real, imaginary, drive = x[d], y[d], u[d]
        new_real = weights[a + d] * real - weights[b + d] * imaginary + weights[e + d] * drive
        new_imaginary = weights[a + d] * imaginary + weights[b + d] * real + weights[f + d] * drive
        x[d] = new_real
        y[d] = new_imaginary
        out[d] += weights[p + d] * new_real + weights[q + d] * new_imaginary


@inlined
def gradients_row(
    g: Any, h: Any, x: Any, y: Any, new_x: Any, new_y: Any, weights: Any, at: int, width: int, u: Any, dy: Any,
    du: Any, da: Any, db: Any, de: Any, df: Any, dp: Any, dq: Any, lanes: int,
) -> None:  # fmt: skip
    """Take g + ih, the gradient to one state of each channel from later steps, to the step before, x + iy.

    The gradients to u and the weights are added.
    """
    a, b, e, f = _U(at), _U(at + width), _U(at + 2 * width), _U(at + 3 * width)
    p, q = _U(at + 4 * width), _U(at + 5 * width)
    for d in range(_U(lanes)):
        dp[d] += dy[d] * new_x[d]
        dq[d] += dy[d] * new_y[d]
        real, imaginary = g[d] + weights[p + d] * dy[d], h[d] + weights[q + d] * dy[d]
        de[d] += real * u[d]
        df[d] += imaginary * u[d]
        du[d] += real * weights[e + d] + imaginary * weights[f + d]
        da[d] += real * x[d] + imaginary * y[d]
        db[d] += imaginary * x[d] - real * y[d]
        g[d] = weights[a + d] * real + weights[b + d] * imaginary
        h[d] = weights[a + d] * imaginary - weights[b + d] * real


@inlined
def states_of(numbers: Any, h: Any, at: int, states: int, lanes: int) -> None:
    """Copy the states of channels (D, M, 2), from `at` on, to rows of lanes (M, 2, L); do nothing without them."""
    if numbers.size:
        for d in range(lanes):
            for n in range(2 * states):
                h[n * lanes + d] = numbers[at + d * 2 * states + n]


@inlined
def states_to(h: Any, numbers: Any, at: int, states: int, lanes: int) -> None:
    """Copy rows of lanes (M, 2, L) to the states of channels (D, M, 2)."""
    if numbers.size:
        for d in range(lanes):
            for n in range(2 * states):
                numbers[at + d * 2 * states + n] = h[n * lanes + d]


@allocating
def forward_block(
    u: Any, weights: Any, state: Any, reset: Any, y: Any, last: Any, entering: Any,
    row: int, at: int, steps: int, width: int, states: int, lanes: int,
) -> None:  # fmt: skip
    h, place = np.zeros(2 * states * lanes, y.dtype), (row * width + at) * 2 * states
    chunks = (steps + CHUNK - 1) // CHUNK
    states_of(state, h, place, states, lanes)
    for t in range(steps):
        step = row * steps + t
        if entering.size and t % CHUNK == 0:
            for n in range(2 * states):
                to = ((row * chunks + t // CHUNK) * 2 * states + n) * width + at
                copy_row(h[n * lanes : (n + 1) * lanes], entering[to : to + lanes], lanes)
        if opens(reset, step):
            h[:] = _ZERO
        here = slice(step * width + at, step * width + at + lanes)
        out, drive = y[here], u[here]
        out[:] = _ZERO
        for m in range(states):
            one = 2 * m * lanes
            advance_and_read(
                h[one : one + lanes], h[one + lanes : one + 2 * lanes], weights, 6 * m * width + at, width, drive, out,
                lanes,
            )  # fmt: skip
    states_to(h, last, place, states, lanes)


@inlined
def history_of(
    u: Any, weights: Any, reset: Any, entering: Any, past: Any, nothing: Any,
    row: int, at: int, start: int, end: int, steps: int, width: int, states: int, lanes: int,
) -> None:  # fmt: skip
    """Recompute the states before, between and after the steps of a chunk."""
    size = 2 * states * lanes
    chunk = row * ((steps + CHUNK - 1) // CHUNK) + start // CHUNK
    for n in range(2 * states):
        source = (chunk * 2 * states + n) * width + at
        copy_row(entering[source : source + lanes], past[n * lanes : (n + 1) * lanes], lanes)
    for t in range(start, end):
        step, slot = row * steps + t, (t - start) * size
        drive, fresh = u[step * width + at : step * width + at + lanes], opens(reset, step)
        for m in range(states):
            one = slot + 2 * m * lanes
            x = nothing[:lanes] if fresh else past[one : one + lanes]
            y = nothing[:lanes] if fresh else past[one + lanes : one + 2 * lanes]
            new = one + size
            advance_row(
                x, y, past[new : new + lanes], past[new + lanes : new + 2 * lanes], weights, 6 * m * width + at,
                width, drive, lanes,
            )  # fmt: skip


@allocating
def backward_block(
    u: Any, weights: Any, reset: Any, entering: Any, dy: Any, dlast: Any, du: Any, dweights: Any, dstate: Any,
    past: Any, row: int, at: int, steps: int, width: int, states: int, lanes: int,
) -> None:  # fmt: skip
    size, place = 2 * states * lanes, (row * width + at) * 2 * states
    g, nothing = np.zeros(size, u.dtype), np.zeros(lanes, u.dtype)
    sums = np.zeros(6 * states * lanes, u.dtype)
    states_of(dlast, g, place, states, lanes)
    for chunk in range((steps + CHUNK - 1) // CHUNK - 1, -1, -1):
        start, end = chunk * CHUNK, min(steps, chunk * CHUNK + CHUNK)
        history_of(u, weights, reset, entering, past, nothing, row, at, start, end, steps, width, states, lanes)
        for t in range(end - 1, start - 1, -1):
            step, slot = row * steps + t, (t - start) * size
            here = slice(step * width + at, step * width + at + lanes)
            fresh, given = opens(reset, step), dy[here] if dy.size else nothing[:]
            drive, found = u[here], du[here]
            found[:] = _ZERO
            for m in range(states):
                one, s = 2 * m * lanes, 6 * m * lanes
                old, new = slot + one, slot + one + size
                x = nothing[:] if fresh else past[old : old + lanes]
                y = nothing[:] if fresh else past[old + lanes : old + 2 * lanes]
                gradients_row(
                    g[one : one + lanes], g[one + lanes : one + 2 * lanes], x, y,
                    past[new : new + lanes], past[new + lanes : new + 2 * lanes], weights, 6 * m * width + at, width,
                    drive, given, found, sums[s : s + lanes], sums[s + lanes : s + 2 * lanes],
                    sums[s + 2 * lanes : s + 3 * lanes], sums[s + 3 * lanes : s + 4 * lanes],
                    sums[s + 4 * lanes : s + 5 * lanes], sums[s + 5 * lanes : s + 6 * lanes], lanes,
                )  # fmt: skip
            if fresh:
                g[:] = _ZERO
    for n in range(6 * states):
        to = (row * 6 * states + n) * width + at
        copy_row(sums[n * lanes : (n + 1) * lanes], dweights[to : to + lanes], lanes)
    states_to(g, dstate, place, states, lanes)


@cache
def forward() -> Callable[..., None]:
    """Build the kernel of u (B, T, D), weights (M, 6, D), state, reset -> y (B, T, D), last (B, D, M, 2).

    `entering` (B, chunks, M, 2, D) saves the states that enter each chunk for the backward pass.
    """

    def kernel(
        u_at: int, weights_at: int, state_at: int, reset_at: int, y_at: int, last_at: int, entering_at: int,
        first: int, end: int, batch: int, steps: int, width: int, states: int, like: Any,
    ) -> None:  # fmt: skip
        size, memory = batch * steps * width, batch * width * states * 2
        u, y = vector(u_at, size, like), vector(y_at, size, like)
        weights, reset = vector(weights_at, 6 * states * width, like), vector(reset_at, batch * steps, np.uint8(0))
        state, last = vector(state_at, memory, like), vector(last_at, memory, like)
        entering = vector(entering_at, memory * ((steps + CHUNK - 1) // CHUNK), like)
        for row in range(first, end):
            for at in range(0, width, LANES):
                lanes = min(LANES, width - at)
                forward_block(u, weights, state, reset, y, last, entering, row, at, steps, width, states, lanes)

    return compiled(kernel)


@cache
def backward() -> Callable[..., None]:
    """Build the kernel from the gradients to y and last state to those to u, weights (B, M, 6, D) and state."""

    def kernel(
        u_at: int, weights_at: int, reset_at: int, entering_at: int, dy_at: int, dlast_at: int, du_at: int,
        dweights_at: int, dstate_at: int,
        first: int, end: int, batch: int, steps: int, width: int, states: int, like: Any,
    ) -> None:  # fmt: skip
        size, memory = batch * steps * width, batch * width * states * 2
        u, dy, du = vector(u_at, size, like), vector(dy_at, size, like), vector(du_at, size, like)
        weights, reset = vector(weights_at, 6 * states * width, like), vector(reset_at, batch * steps, np.uint8(0))
        dlast, dstate = vector(dlast_at, memory, like), vector(dstate_at, memory, like)
        dweights = vector(dweights_at, 3 * memory, like)
        entering = vector(entering_at, memory * ((steps + CHUNK - 1) // CHUNK), like)
        past = np.empty((CHUNK + 1) * 2 * states * min(LANES, width), u.dtype)
        for row in range(first, end):
            for at in range(0, width, LANES):
                lanes = min(LANES, width - at)
                backward_block(
                    u, weights, reset, entering, dy, dlast, du, dweights, dstate, past, row, at, steps, width, states,
                    lanes,
                )  # fmt: skip

    return compiled(kernel)
