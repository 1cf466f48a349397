"""The compiled loops of the selective scan on a CPU: decays, states, outputs and resets at every step, and the adjoint.

Channels are lanes, and the states of a block of channels are rows of lanes. Tensors are read and written where torch
keeps them, through their addresses; an address of 0 is one that is not there. One call does all steps of the batch
rows `first` to `end`.

Shapes: B batch, T time, H channels, N states of a channel, L lanes of a block.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import allocating, compiled, inlined, summing
from minrl.kernels.jit.math import exponential, held_constants
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import copy_row
from minrl.kernels.lstm.cpu_loops import opens

# Steps of a chunk, whose states and decays the backward pass recomputes for a block of channels: with N = 16 they fill
# an eighth of the second cache.
CHUNK = 16
LANES = 64
_ZERO = np.float32(0)


@inlined
def advance_row(h: Any, a: Any, dt: Any, drive: Any, b: Any, c: Any, y: Any, constants: Any, lanes: int) -> None:
    """Compute one state of each channel, and add its part to the outputs."""
    for d in range(lanes):
        now = exponential(dt[d] * a[d], 1.0, constants) * h[d] + drive[d] * b
        h[d] = now
        y[d] += c * now


@inlined
def repeat_row(h: Any, now: Any, decay: Any, a: Any, dt: Any, drive: Any, b: Any, constants: Any, lanes: int) -> None:
    """Compute one state of each channel and its decay from the state before."""
    for d in range(lanes):
        kept = exponential(dt[d] * a[d], 1.0, constants)
        decay[d] = kept
        now[d] = kept * h[d] + drive[d] * b


@summing
def gradients_row(
    g: Any, h: Any, now: Any, decay: Any, a: Any, dt: Any, drive: Any, dy: Any, b: Any, c: Any,
    ddt: Any, ddrive: Any, da: Any, lanes: int,
) -> Any:  # fmt: skip
    """Take `g`, the gradient to one state of each channel from later steps, to the step before, `h`.

    Returns the gradients to b and c; those to dt, drive and A are added.
    """
    of_b, of_c = b * _ZERO, b * _ZERO
    for d in range(lanes):
        total = g[d] + c * dy[d]
        of_c += dy[d] * now[d]
        of_b += total * drive[d]
        ddrive[d] += total * b
        total *= decay[d]
        g[d] = total
        through = total * h[d]
        ddt[d] += through * a[d]
        da[d] += through * dt[d]
    return of_b, of_c


@inlined
def states_of(x: Any, h: Any, at: int, states: int, lanes: int) -> None:
    """Copy the states of channels (H, N), from `at` on, to rows of lanes; do nothing without x."""
    if x.size:
        for d in range(lanes):
            for n in range(states):
                h[n * lanes + d] = x[at + d * states + n]


@inlined
def states_to(h: Any, x: Any, at: int, states: int, lanes: int) -> None:
    """Copy rows of lanes to the states of channels (H, N)."""
    if x.size:
        for d in range(lanes):
            for n in range(states):
                x[at + d * states + n] = h[n * lanes + d]


@allocating
def forward_block(
    dt: Any, drive: Any, b: Any, c: Any, a: Any, state: Any, reset: Any, y: Any, last: Any, entering: Any,
    row: int, at: int, steps: int, width: int, states: int, lanes: int,
) -> None:  # fmt: skip
    constants = held_constants()
    h, place = np.zeros(states * lanes, y.dtype), (row * width + at) * states
    chunks = (steps + CHUNK - 1) // CHUNK
    states_of(state, h, place, states, lanes)
    for t in range(steps):
        step = row * steps + t
        if entering.size and t % CHUNK == 0:
            for n in range(states):
                to = ((row * chunks + t // CHUNK) * states + n) * width + at
                copy_row(h[n * lanes : (n + 1) * lanes], entering[to : to + lanes], lanes)
        if opens(reset, step):
            h[:] = _ZERO
        here = slice(step * width + at, step * width + at + lanes)
        of_y = y[here]
        of_y[:] = _ZERO
        for n in range(states):
            of_a = n * width + at
            advance_row(
                h[n * lanes : (n + 1) * lanes], a[of_a : of_a + lanes], dt[here], drive[here], b[step * states + n],
                c[step * states + n], of_y, constants, lanes,
            )  # fmt: skip
    states_to(h, last, place, states, lanes)


@inlined
def history_of(
    dt: Any, drive: Any, b: Any, a: Any, reset: Any, entering: Any, past: Any, decays: Any, nothing: Any,
    row: int, at: int, start: int, end: int, steps: int, width: int, states: int, lanes: int,
) -> None:  # fmt: skip
    """Recompute the states before, between and after the steps of a chunk, and their decays."""
    constants, size = held_constants(), states * lanes
    chunk = row * ((steps + CHUNK - 1) // CHUNK) + start // CHUNK
    for n in range(states):
        source = (chunk * states + n) * width + at
        copy_row(entering[source : source + lanes], past[n * lanes : (n + 1) * lanes], lanes)
    for t in range(start, end):
        step, slot = row * steps + t, (t - start) * size
        here = slice(step * width + at, step * width + at + lanes)
        fresh = opens(reset, step)
        for n in range(states):
            of_a, one = n * width + at, slot + n * lanes
            before = nothing[:lanes] if fresh else past[one : one + lanes]
            repeat_row(
                before, past[one + size : one + size + lanes], decays[one : one + lanes], a[of_a : of_a + lanes],
                dt[here], drive[here], b[step * states + n], constants, lanes,
            )  # fmt: skip


@allocating
def backward_block(
    dt: Any, drive: Any, b: Any, c: Any, a: Any, reset: Any, entering: Any, dy: Any, dlast: Any,
    ddt: Any, ddrive: Any, db: Any, dc: Any, da: Any, dstate: Any, past: Any, decays: Any,
    row: int, at: int, steps: int, width: int, states: int, lanes: int,
) -> None:  # fmt: skip
    size, place = states * lanes, (row * width + at) * states
    g, nothing = np.zeros(size, dt.dtype), np.zeros(lanes, dt.dtype)
    states_of(dlast, g, place, states, lanes)
    for chunk in range((steps + CHUNK - 1) // CHUNK - 1, -1, -1):
        start, end = chunk * CHUNK, min(steps, chunk * CHUNK + CHUNK)
        history_of(
            dt, drive, b, a, reset, entering, past, decays, nothing, row, at, start, end, steps, width, states, lanes
        )
        for t in range(end - 1, start - 1, -1):
            step, slot = row * steps + t, (t - start) * size
            here = slice(step * width + at, step * width + at + lanes)
            fresh, given = opens(reset, step), dy[here] if dy.size else nothing[:]
            of_dt, of_drive = ddt[here], ddrive[here]
            of_dt[:] = _ZERO
            of_drive[:] = _ZERO
            for n in range(states):
                of_a, one, number = n * width + at, slot + n * lanes, step * states + n
                sums = (row * states + n) * width + at
                before = nothing[:] if fresh else past[one : one + lanes]
                of_b, of_c = gradients_row(
                    g[n * lanes : (n + 1) * lanes], before, past[one + size : one + size + lanes],
                    decays[one : one + lanes], a[of_a : of_a + lanes], dt[here], drive[here], given, b[number],
                    c[number], of_dt, of_drive, da[sums : sums + lanes], lanes,
                )  # fmt: skip
                db[number] = of_b if at == 0 else db[number] + of_b
                dc[number] = of_c if at == 0 else dc[number] + of_c
            if fresh:
                g[:] = _ZERO
    states_to(g, dstate, place, states, lanes)


@cache
def forward() -> Callable[..., None]:
    """Build the kernel of dt, drive (B, T, H), b, c (B, T, N), A (N, H), state, reset -> y (B, T, H), last (B, H, N).

    `entering` (B, chunks, N, H) saves the states that enter each chunk for the backward pass.
    """

    def kernel(
        dt_at: int, drive_at: int, b_at: int, c_at: int, a_at: int, state_at: int, reset_at: int, y_at: int,
        last_at: int, entering_at: int, first: int, end: int, batch: int, steps: int, width: int, states: int,
        like: Any,
    ) -> None:  # fmt: skip
        size, few, memory = batch * steps * width, batch * steps * states, batch * width * states
        dt, drive, y = vector(dt_at, size, like), vector(drive_at, size, like), vector(y_at, size, like)
        b, c, a = vector(b_at, few, like), vector(c_at, few, like), vector(a_at, states * width, like)
        state, last = vector(state_at, memory, like), vector(last_at, memory, like)
        reset = vector(reset_at, batch * steps, np.uint8(0))
        entering = vector(entering_at, memory * ((steps + CHUNK - 1) // CHUNK), like)
        for row in range(first, end):
            for at in range(0, width, LANES):
                lanes = min(LANES, width - at)
                forward_block(
                    dt, drive, b, c, a, state, reset, y, last, entering, row, at, steps, width, states, lanes
                )  # fmt: skip

    return compiled(kernel)


@cache
def backward() -> Callable[..., None]:
    """Build the kernel from the gradients to y and last state to those to dt, drive, b, c, state and A (B, N, H)."""

    def kernel(
        dt_at: int, drive_at: int, b_at: int, c_at: int, a_at: int, reset_at: int, entering_at: int, dy_at: int,
        dlast_at: int, ddt_at: int, ddrive_at: int, db_at: int, dc_at: int, da_at: int, dstate_at: int,
        first: int, end: int, batch: int, steps: int, width: int, states: int, like: Any,
    ) -> None:  # fmt: skip
        size, few, memory = batch * steps * width, batch * steps * states, batch * width * states
        dt, drive, dy = vector(dt_at, size, like), vector(drive_at, size, like), vector(dy_at, size, like)
        b, c, a = vector(b_at, few, like), vector(c_at, few, like), vector(a_at, states * width, like)
        reset, dlast = vector(reset_at, batch * steps, np.uint8(0)), vector(dlast_at, memory, like)
        entering = vector(entering_at, memory * ((steps + CHUNK - 1) // CHUNK), like)
        ddt, ddrive = vector(ddt_at, size, like), vector(ddrive_at, size, like)
        db, dc, da = vector(db_at, few, like), vector(dc_at, few, like), vector(da_at, memory, like)
        dstate = vector(dstate_at, memory, like)
        most = states * min(LANES, width)
        past, decays = np.empty((CHUNK + 1) * most, dt.dtype), np.empty(CHUNK * most, dt.dtype)
        for row in range(first, end):
            for at in range(0, width, LANES):
                lanes = min(LANES, width - at)
                backward_block(
                    dt, drive, b, c, a, reset, entering, dy, dlast, ddt, ddrive, db, dc, da, dstate, past, decays,
                    row, at, steps, width, states, lanes,
                )  # fmt: skip

    return compiled(kernel)
