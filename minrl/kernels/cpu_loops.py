"""The compiled loops of the CPU kernels: gates, recurrence and resets in one pass over memory, and its adjoint.

Time runs inside, and a block of lanes of the width keeps its memory in the first cache. One call does the items
`first` to `last` of the B * N blocks; an empty array stands for a state, reset or gradient that is not there.

Shapes: B batch, T time, D width, L lanes of a block, N blocks of the width, P parts of the gates (2 or 3).
"""

from typing import Any

import numpy as np

from minrl.kernels.cpu_math import compiled, exponential, inlined, prefetch_read, prefetch_write

LANES = 64
CANDIDATES = {"positive": 0, "tanh": 1, "linear": 2}
# How many steps ahead memory is asked for, and in what pieces.
_AHEAD, _CACHE_LINE = 8, 16
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)


@inlined
def ask_to_read(x: Any, at: int, lanes: int) -> None:
    """Have a row of lanes brought to the cache."""
    for line in range(0, lanes, _CACHE_LINE):
        prefetch_read(x, at + line)


@inlined
def ask_to_write(x: Any, at: int, lanes: int) -> None:
    """The same for a row that will be written."""
    for line in range(0, lanes, _CACHE_LINE):
        prefetch_write(x, at + line)


@inlined
def shares(gates: Any, at: int, width: int, parts: int, insert: Any, keep: Any, slopes: Any, lanes: int) -> None:
    """The share of the candidate that goes in and that of the memory that stays, with the slopes of the former.

    minGRU: z and 1 - z with dz/dk. minLSTM: i' and f' with di'/d forget and di'/d insert.
    """
    if parts == 2:
        update, slope = gates[at : at + lanes], slopes[:LANES]
        for d in range(lanes):
            shut = exponential(-update[d])
            share = _ONE / (_ONE + shut)
            insert[d] = share
            keep[d] = shut * share
            slope[d] = share * (shut * share)
    else:
        forgets, inserts = gates[at : at + lanes], gates[at + width : at + width + lanes]
        slope, other = slopes[:LANES], slopes[LANES:]
        for d in range(lanes):
            # f' / i' = (1 + exp(-i)) / (1 + exp(-f)), scaled so that the largest exponential is 1.
            f, i = -forgets[d], -inserts[d]
            largest = max(f, i)
            largest = max(largest, _ZERO)
            unit = exponential(-largest)
            f = exponential(f - largest)
            i = exponential(i - largest)
            scale = _ONE / ((unit + f) + (unit + i))
            insert[d] = (unit + f) * scale
            keep[d] = (unit + i) * scale
            slope[d] = -(unit + i) * scale * (f * scale)
            other[d] = (unit + f) * scale * (i * scale)


@inlined
def contents(gates: Any, at: int, candidate: int, content: Any, slope: Any, lanes: int) -> None:
    """The candidate g(v) and its slope."""
    x = gates[at : at + lanes]
    if candidate == 0:
        for d in range(lanes):
            v = x[d]
            s = _ONE / (_ONE + exponential(-v))
            content[d] = v + _HALF if v >= _ZERO else s
            slope[d] = _ONE if v >= _ZERO else s * (_ONE - s)
    elif candidate == 1:
        for d in range(lanes):
            s = _TWO / (_ONE + exponential(-_TWO * x[d])) - _ONE
            content[d] = s
            slope[d] = _ONE - s * s
    else:
        for d in range(lanes):
            content[d] = x[d]
            slope[d] = _ONE


@inlined
def gated_forward_block(
    gates: Any, state: Any, reset: Any, h: Any, last: Any, row: int, at: int, steps: int, width: int,
    parts: int, candidate: int, flip: Any, lanes: int,
) -> None:  # fmt: skip
    memory, insert, keep = np.empty(LANES, h.dtype), np.empty(LANES, h.dtype), np.empty(LANES, h.dtype)
    content, slope, slopes = np.empty(LANES, h.dtype), np.empty(LANES, h.dtype), np.empty(2 * LANES, h.dtype)
    for d in range(lanes):
        memory[d] = state[row * width + at + d] if state.size else _ZERO
    for t in range(steps):
        of_h = (row * steps + t) * width + at
        of_gates = of_h * parts - at * (parts - 1)
        for part in range(parts):
            ask_to_read(gates, of_gates + (_AHEAD * parts + part) * width, lanes)
        ask_to_write(h, of_h + _AHEAD * width, lanes)
        if reset.size and reset[row * steps + t]:
            memory[:] = _ZERO
        shares(gates, of_gates, width, parts, insert, keep, slopes, lanes)
        contents(gates, of_gates + (parts - 1) * width, candidate, content, slope, lanes)
        out = h[of_h : of_h + lanes]
        for d in range(lanes):
            memory[d] = (keep[d] - flip * insert[d]) * memory[d] + insert[d] * content[d]
            out[d] = memory[d]
    for d in range(lanes):
        last[row * width + at + d] = memory[d]


@inlined
def gated_backward_block(
    gates: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, dgates: Any, dstate: Any, row: int, at: int,
    steps: int, width: int, parts: int, candidate: int, flip: Any, lanes: int,
) -> None:  # fmt: skip
    memory, insert, keep = np.empty(LANES, h.dtype), np.empty(LANES, h.dtype), np.empty(LANES, h.dtype)
    content, slope, slopes = np.empty(LANES, h.dtype), np.empty(LANES, h.dtype), np.empty(2 * LANES, h.dtype)
    later, total = np.empty(LANES, h.dtype), np.empty(LANES, h.dtype)
    for d in range(lanes):
        later[d] = dlast[row * width + at + d]
    for t in range(steps - 1, -1, -1):
        of_h = (row * steps + t) * width + at
        of_gates = of_h * parts - at * (parts - 1)
        for part in range(parts):
            ask_to_read(gates, of_gates - (_AHEAD * parts - part) * width, lanes)
            ask_to_write(dgates, of_gates - (_AHEAD * parts - part) * width, lanes)
        ask_to_read(h, of_h - (_AHEAD + 1) * width, lanes)
        ask_to_read(dh, of_h - _AHEAD * width, lanes)
        opens = reset.size > 0 and reset[row * steps + t] != 0
        shares(gates, of_gates, width, parts, insert, keep, slopes, lanes)
        contents(gates, of_gates + (parts - 1) * width, candidate, content, slope, lanes)
        if opens or (t == 0 and state.size == 0):
            memory[:] = _ZERO
        elif t == 0:
            for d in range(lanes):
                memory[d] = state[row * width + at + d]
        else:
            earlier = h[of_h - width : of_h - width + lanes]
            for d in range(lanes):
                memory[d] = earlier[d]
        of_this = dh[of_h : of_h + lanes]
        for d in range(lanes):
            total[d] = of_this[d] + later[d]
        of_content = dgates[of_gates + (parts - 1) * width : of_gates + (parts - 1) * width + lanes]
        for d in range(lanes):
            of_content[d] = total[d] * insert[d] * slope[d]
        for d in range(lanes):
            later[d] = total[d] * (keep[d] - flip * insert[d])
            total[d] = total[d] * (content[d] - (_ONE + flip) * memory[d])
        for part in range(parts - 1):
            of_part = dgates[of_gates + part * width : of_gates + part * width + lanes]
            by = slopes[part * LANES : part * LANES + lanes]
            for d in range(lanes):
                of_part[d] = total[d] * by[d]
        if opens:
            later[:] = _ZERO
    for d in range(lanes):
        dstate[row * width + at + d] = later[d]


@inlined
def linear_forward_block(
    decay: Any, drive: Any, state: Any, reset: Any, h: Any, last: Any, row: int, at: int, steps: int, width: int,
    lanes: int,
) -> None:  # fmt: skip
    memory = np.empty(LANES, h.dtype)
    for d in range(lanes):
        memory[d] = state[row * width + at + d] if state.size else _ZERO
    for t in range(steps):
        here = (row * steps + t) * width + at
        ask_to_read(decay, here + _AHEAD * width, lanes)
        ask_to_read(drive, here + _AHEAD * width, lanes)
        ask_to_write(h, here + _AHEAD * width, lanes)
        if reset.size and reset[row * steps + t]:
            memory[:] = _ZERO
        a, b, out = decay[here : here + lanes], drive[here : here + lanes], h[here : here + lanes]
        for d in range(lanes):
            memory[d] = a[d] * memory[d] + b[d]
            out[d] = memory[d]
    for d in range(lanes):
        last[row * width + at + d] = memory[d]


@inlined
def linear_backward_block(
    decay: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, ddecay: Any, ddrive: Any, dstate: Any,
    row: int, at: int, steps: int, width: int, lanes: int,
) -> None:  # fmt: skip
    memory, later, total = np.empty(LANES, h.dtype), np.empty(LANES, h.dtype), np.empty(LANES, h.dtype)
    for d in range(lanes):
        later[d] = dlast[row * width + at + d]
    for t in range(steps - 1, -1, -1):
        here = (row * steps + t) * width + at
        ask_to_read(decay, here - _AHEAD * width, lanes)
        ask_to_read(h, here - (_AHEAD + 1) * width, lanes)
        ask_to_read(dh, here - _AHEAD * width, lanes)
        ask_to_write(ddecay, here - _AHEAD * width, lanes)
        ask_to_write(ddrive, here - _AHEAD * width, lanes)
        opens = reset.size > 0 and reset[row * steps + t] != 0
        if opens or (t == 0 and state.size == 0):
            memory[:] = _ZERO
        elif t == 0:
            for d in range(lanes):
                memory[d] = state[row * width + at + d]
        else:
            earlier = h[here - width : here - width + lanes]
            for d in range(lanes):
                memory[d] = earlier[d]
        a, of_this = decay[here : here + lanes], dh[here : here + lanes]
        for d in range(lanes):
            total[d] = of_this[d] + later[d]
            later[d] = total[d] * a[d]
        of_decay, of_drive = ddecay[here : here + lanes], ddrive[here : here + lanes]
        for d in range(lanes):
            of_drive[d] = total[d]
        for d in range(lanes):
            of_decay[d] = total[d] * memory[d]
        if opens:
            later[:] = _ZERO
    for d in range(lanes):
        dstate[row * width + at + d] = later[d]


# Each kernel has its block twice: with the number of lanes known to the compiler, and for the rest of the width.


@compiled
def gated_forward(
    gates: Any, state: Any, reset: Any, h: Any, last: Any, first: int, end: int, steps: int, width: int,
    parts: int, candidate: int, flip: Any,
) -> None:  # fmt: skip
    """(B, T, PD) -> h (B, T, D) and the last state (B, D), all flat."""
    blocks = (width + LANES - 1) // LANES
    for item in range(first, end):
        row, at = item // blocks, item % blocks * LANES
        if width - at >= LANES:
            gated_forward_block(
                gates, state, reset, h, last, row, at, steps, width, parts, candidate, flip, LANES
            )
        else:
            gated_forward_block(
                gates, state, reset, h, last, row, at, steps, width, parts, candidate, flip, width - at
            )


@compiled
def gated_backward(
    gates: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, dgates: Any, dstate: Any, first: int,
    end: int, steps: int, width: int, parts: int, candidate: int, flip: Any,
) -> None:  # fmt: skip
    """The gradients to the gates and the state from those to h and the last state; gates are formed anew."""
    blocks = (width + LANES - 1) // LANES
    for item in range(first, end):
        row, at = item // blocks, item % blocks * LANES
        if width - at >= LANES:
            gated_backward_block(
                gates, state, reset, h, dh, dlast, dgates, dstate, row, at, steps, width, parts, candidate, flip,
                LANES,
            )  # fmt: skip
        else:
            gated_backward_block(
                gates, state, reset, h, dh, dlast, dgates, dstate, row, at, steps, width, parts, candidate, flip,
                width - at,
            )  # fmt: skip


@compiled
def linear_forward(
    decay: Any, drive: Any, state: Any, reset: Any, h: Any, last: Any, first: int, end: int, steps: int, width: int
) -> None:
    """(B, T, D), (B, T, D) -> h (B, T, D) and the last state (B, D), all flat."""
    blocks = (width + LANES - 1) // LANES
    for item in range(first, end):
        row, at = item // blocks, item % blocks * LANES
        if width - at >= LANES:
            linear_forward_block(decay, drive, state, reset, h, last, row, at, steps, width, LANES)
        else:
            linear_forward_block(decay, drive, state, reset, h, last, row, at, steps, width, width - at)


@compiled
def linear_backward(
    decay: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, ddecay: Any, ddrive: Any, dstate: Any,
    first: int, end: int, steps: int, width: int,
) -> None:  # fmt: skip
    """The gradients to decay, drive and state from those to h and the last state."""
    blocks = (width + LANES - 1) // LANES
    for item in range(first, end):
        row, at = item // blocks, item % blocks * LANES
        if width - at >= LANES:
            linear_backward_block(
                decay, state, reset, h, dh, dlast, ddecay, ddrive, dstate, row, at, steps, width, LANES
            )
        else:
            linear_backward_block(
                decay, state, reset, h, dh, dlast, ddecay, ddrive, dstate, row, at, steps, width, width - at
            )
