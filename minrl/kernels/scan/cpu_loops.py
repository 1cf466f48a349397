"""The compiled loops of the CPU kernels: gates, recurrence and resets in one pass over memory, and its adjoint.

Time is the inner loop, and the state of a block of lanes stays in the first cache. One call does the items `first` to
`end` of the B * N blocks; an empty array stands for an absent state or reset.

Shapes: B batch, T time, D width, L lanes of a block, N blocks of the width, P parts of the gates (2 or 3).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import allocating, compiled, inlined
from minrl.kernels.jit.rows import copy_row, prefetch_row_to_read, prefetch_row_to_write
from minrl.kernels.scan.cpu_gates import forward_row, gradients_row, linear_gradients_row, linear_row, slopes_row

# The largest block of lanes, in elements.
LANES = 256
# Steps that the backward pass prepares in forward order before it runs through them in reverse: memory is read and
# written twice as fast upwards as downwards.
_CHUNK = 64
_ZERO = np.float32(0)


@allocating
def gated_forward_block(
    gates: Any, state: Any, reset: Any, h: Any, last: Any, row: int, at: int, steps: int, width: int,
    parts: int, candidate: int, flip: Any, lanes: int,
) -> None:  # fmt: skip
    _gated_forward(
        gates, state, reset, h, last, np.zeros(lanes, h.dtype), row, at, steps, width, parts, candidate, flip, lanes
    )


@inlined
def _gated_forward(
    gates: Any, state: Any, reset: Any, h: Any, last: Any, memory: Any, row: int, at: int, steps: int, width: int,
    parts: int, candidate: int, flip: Any, lanes: int,
) -> None:  # fmt: skip
    here = row * width + at
    if state.size:
        copy_row(state[here : here + lanes], memory, lanes)
    for t in range(steps):
        of_h = (row * steps + t) * width + at
        of_gates = (row * steps + t) * width * parts + at
        for part in range(parts):
            prefetch_row_to_read(gates, of_gates + part * width, lanes)
        prefetch_row_to_write(h, of_h, lanes)
        if reset.size and reset[row * steps + t]:
            memory[:] = _ZERO
        second, content = of_gates + (parts - 2) * width, of_gates + (parts - 1) * width
        forward_row(
            gates[of_gates : of_gates + lanes], gates[second : second + lanes], gates[content : content + lanes],
            memory, h[of_h : of_h + lanes], parts, candidate, flip, lanes,
        )  # fmt: skip
    copy_row(memory, last[here : here + lanes], lanes)


@allocating
def gated_backward_block(
    gates: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, dgates: Any, dstate: Any, row: int, at: int,
    steps: int, width: int, parts: int, candidate: int, flip: Any, lanes: int,
) -> None:  # fmt: skip
    nothing, later, loss = np.zeros(lanes, h.dtype), np.empty(lanes, h.dtype), np.empty(_CHUNK * lanes, h.dtype)
    _gated_backward(
        gates, state, reset, h, dh, dlast, dgates, dstate, nothing, later, loss, row, at, steps, width, parts,
        candidate, flip, lanes,
    )  # fmt: skip


@inlined
def _gated_backward(
    gates: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, dgates: Any, dstate: Any, nothing: Any, later: Any,
    loss: Any, row: int, at: int, steps: int, width: int, parts: int, candidate: int, flip: Any, lanes: int,
) -> None:  # fmt: skip
    here = row * width + at
    copy_row(dlast[here : here + lanes], later, lanes)
    for start in range((steps - 1) // _CHUNK * _CHUNK, -1, -_CHUNK):
        end = min(start + _CHUNK, steps)
        for t in range(start, end):
            first, of_h = (row * steps + t) * width * parts + at, (row * steps + t) * width + at
            second, content = first + (parts - 2) * width, first + (parts - 1) * width
            prefetch_row_to_read(dh, of_h, lanes)
            prefetch_row_to_read(h, of_h, lanes)
            for part in range(parts):
                prefetch_row_to_read(gates, first + part * width, lanes)
                prefetch_row_to_write(dgates, first + part * width, lanes)
            before = nothing[:lanes]
            if reset.size == 0 or not reset[row * steps + t]:
                if t > 0:
                    before = h[of_h - width : of_h - width + lanes]
                elif state.size:
                    before = state[here : here + lanes]
            slopes_row(
                gates[first : first + lanes], gates[second : second + lanes], gates[content : content + lanes],
                before, loss[(t - start) * lanes : (t - start + 1) * lanes],
                dgates[first : first + lanes], dgates[second : second + lanes], dgates[content : content + lanes],
                parts, candidate, flip, lanes,
            )  # fmt: skip
        for t in range(end - 1, start - 1, -1):
            first, of_h = (row * steps + t) * width * parts + at, (row * steps + t) * width + at
            second, content = first + (parts - 2) * width, first + (parts - 1) * width
            gradients_row(
                dh[of_h : of_h + lanes], loss[(t - start) * lanes : (t - start + 1) * lanes], later,
                dgates[first : first + lanes], dgates[second : second + lanes], dgates[content : content + lanes],
                parts, lanes,
            )  # fmt: skip
            if reset.size and reset[row * steps + t]:
                later[:] = _ZERO
    copy_row(later, dstate[here : here + lanes], lanes)


@allocating
def linear_forward_block(
    decay: Any, drive: Any, state: Any, reset: Any, h: Any, last: Any, row: int, at: int, steps: int, width: int,
    lanes: int,
) -> None:  # fmt: skip
    memory, here = np.zeros(lanes, h.dtype), row * width + at
    if state.size:
        copy_row(state[here : here + lanes], memory, lanes)
    for t in range(steps):
        of_h = (row * steps + t) * width + at
        prefetch_row_to_read(decay, of_h, lanes)
        prefetch_row_to_read(drive, of_h, lanes)
        prefetch_row_to_write(h, of_h, lanes)
        if reset.size and reset[row * steps + t]:
            memory[:] = _ZERO
        linear_row(decay[of_h : of_h + lanes], drive[of_h : of_h + lanes], memory, h[of_h : of_h + lanes], lanes)
    copy_row(memory, last[here : here + lanes], lanes)


@allocating
def linear_backward_block(
    decay: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, ddecay: Any, ddrive: Any, dstate: Any,
    row: int, at: int, steps: int, width: int, lanes: int,
) -> None:  # fmt: skip
    nothing, later, here = np.zeros(lanes, h.dtype), np.empty(lanes, h.dtype), row * width + at
    copy_row(dlast[here : here + lanes], later, lanes)
    for start in range((steps - 1) // _CHUNK * _CHUNK, -1, -_CHUNK):
        end = min(start + _CHUNK, steps)
        for t in range(start, end):
            of_h = (row * steps + t) * width + at
            prefetch_row_to_read(dh, of_h, lanes)
            prefetch_row_to_read(decay, of_h, lanes)
            prefetch_row_to_write(ddrive, of_h, lanes)
            before = nothing[:lanes]
            if reset.size == 0 or not reset[row * steps + t]:
                if t > 0:
                    before = h[of_h - width : of_h - width + lanes]
                elif state.size:
                    before = state[here : here + lanes]
            copy_row(before, ddecay[of_h : of_h + lanes], lanes)
        for t in range(end - 1, start - 1, -1):
            of_h = (row * steps + t) * width + at
            linear_gradients_row(
                dh[of_h : of_h + lanes], decay[of_h : of_h + lanes], later,
                ddecay[of_h : of_h + lanes], ddrive[of_h : of_h + lanes], lanes,
            )  # fmt: skip
            if reset.size and reset[row * steps + t]:
                later[:] = _ZERO
    copy_row(later, dstate[here : here + lanes], lanes)


def blocks_of(width: int) -> int:
    """Return the number of blocks of lanes in a row."""
    return -(-width // LANES)


@cache
def gated_forward(parts: int, candidate: int) -> Callable[..., None]:
    """Build the kernel from gates (B, T, PD) to h (B, T, D) and last state (B, D), all flat."""

    def kernel(
        gates: Any, state: Any, reset: Any, h: Any, last: Any, first: int, end: int, steps: int, width: int, flip: Any
    ) -> None:
        blocks = (width + LANES - 1) // LANES
        for item in range(first, end):
            row, at = item // blocks, item % blocks * LANES
            lanes = min(LANES, width - at)
            gated_forward_block(
                gates, state, reset, h, last, row, at, steps, width, parts, candidate, flip, lanes
            )  # fmt: skip

    return compiled(kernel)


@cache
def gated_backward(parts: int, candidate: int) -> Callable[..., None]:
    """Build the kernel of the gradients to gates and state from those to h and last state; gates are recomputed."""

    def kernel(
        gates: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, dgates: Any, dstate: Any,
        first: int, end: int, steps: int, width: int, flip: Any,
    ) -> None:  # fmt: skip
        blocks = (width + LANES - 1) // LANES
        for item in range(first, end):
            row, at = item // blocks, item % blocks * LANES
            lanes = min(LANES, width - at)
            gated_backward_block(
                gates, state, reset, h, dh, dlast, dgates, dstate, row, at, steps, width, parts, candidate, flip, lanes
            )

    return compiled(kernel)


@cache
def linear_forward() -> Callable[..., None]:
    """Build the kernel from decay and drive (B, T, D) to h (B, T, D) and last state (B, D), all flat."""

    def kernel(
        decay: Any, drive: Any, state: Any, reset: Any, h: Any, last: Any, first: int, end: int, steps: int, width: int
    ) -> None:
        blocks = (width + LANES - 1) // LANES
        for item in range(first, end):
            row, at = item // blocks, item % blocks * LANES
            lanes = min(LANES, width - at)
            linear_forward_block(decay, drive, state, reset, h, last, row, at, steps, width, lanes)

    return compiled(kernel)


@cache
def linear_backward() -> Callable[..., None]:
    """Build the kernel of the gradients to decay, drive and state from those to h and last state."""

    def kernel(
        decay: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, ddecay: Any, ddrive: Any, dstate: Any,
        first: int, end: int, steps: int, width: int,
    ) -> None:  # fmt: skip
        blocks = (width + LANES - 1) // LANES
        for item in range(first, end):
            row, at = item // blocks, item % blocks * LANES
            lanes = min(LANES, width - at)
            linear_backward_block(
                decay, state, reset, h, dh, dlast, ddecay, ddrive, dstate, row, at, steps, width, lanes
            )

    return compiled(kernel)
