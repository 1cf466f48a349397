"""The compiled loops of the complex linear recurrence, with real and imaginary parts side by side, as torch has them.

As in `cpu_loops`, time runs inside, one call does the items `first` to `end` of the B * N blocks of lanes, and an
empty array stands for an absent state or reset. A decay of one row (D) holds for all rows and steps.

Shapes: B batch, T time, D width in complex numbers (all arrays have 2D real ones), L lanes of a block, N blocks.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import allocating, compiled, inlined
from minrl.kernels.jit.rows import copy_row, prefetch_row_to_read, prefetch_row_to_write

# The largest block of lanes, in complex elements.
LANES = 128
_ZERO = np.float32(0)


@inlined
def complex_row(decay: Any, drive: Any, memory: Any, h: Any, lanes: int) -> None:
    """Compute h = decay * memory + drive, and set the memory to h."""
    for d in range(lanes):
        a, b = decay[2 * d], decay[2 * d + 1]
        real, imaginary = memory[2 * d], memory[2 * d + 1]
        new_real = a * real - b * imaginary + drive[2 * d]
        new_imaginary = a * imaginary + b * real + drive[2 * d + 1]
        memory[2 * d] = new_real
        memory[2 * d + 1] = new_imaginary
        h[2 * d] = new_real
        h[2 * d + 1] = new_imaginary


@inlined
def complex_gradients_row(dh: Any, decay: Any, before: Any, later: Any, ddecay: Any, ddrive: Any, lanes: int) -> None:
    """Compute G = dh + later; set ddrive to G, ddecay to G * conj(before) and later to G * conj(decay)."""
    for d in range(lanes):
        a, b = decay[2 * d], decay[2 * d + 1]
        p, q = before[2 * d], before[2 * d + 1]
        real, imaginary = dh[2 * d] + later[2 * d], dh[2 * d + 1] + later[2 * d + 1]
        ddrive[2 * d] = real
        ddrive[2 * d + 1] = imaginary
        ddecay[2 * d] = real * p + imaginary * q
        ddecay[2 * d + 1] = imaginary * p - real * q
        later[2 * d] = real * a + imaginary * b
        later[2 * d + 1] = imaginary * a - real * b


@allocating
def forward_block(
    decay: Any, drive: Any, state: Any, reset: Any, h: Any, last: Any, row: int, at: int, steps: int, numbers: int,
    size: int,
) -> None:  # fmt: skip
    memory, here = np.zeros(size, h.dtype), row * numbers + at
    if state.size:
        copy_row(state[here : here + size], memory, size)
    for t in range(steps):
        now = (row * steps + t) * numbers + at
        of_decay = at if decay.size == numbers else now
        prefetch_row_to_read(decay, of_decay, size)
        prefetch_row_to_read(drive, now, size)
        prefetch_row_to_write(h, now, size)
        if reset.size and reset[row * steps + t]:
            memory[:] = _ZERO
        complex_row(
            decay[of_decay : of_decay + size], drive[now : now + size], memory, h[now : now + size], size // 2
        )  # fmt: skip
    copy_row(memory, last[here : here + size], size)


@allocating
def backward_block(
    decay: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, ddecay: Any, ddrive: Any, dstate: Any,
    row: int, at: int, steps: int, numbers: int, size: int,
) -> None:  # fmt: skip
    nothing, later, here = np.zeros(size, h.dtype), np.empty(size, h.dtype), row * numbers + at
    copy_row(dlast[here : here + size], later, size)
    for t in range(steps - 1, -1, -1):
        now = (row * steps + t) * numbers + at
        of_decay = at if decay.size == numbers else now
        prefetch_row_to_read(dh, now, size)
        prefetch_row_to_write(ddrive, now, size)
        prefetch_row_to_write(ddecay, now, size)
        opens = reset.size > 0 and reset[row * steps + t]
        before = nothing[:size]
        if not opens:
            if t > 0:
                before = h[now - numbers : now - numbers + size]
            elif state.size:
                before = state[here : here + size]
        complex_gradients_row(
            dh[now : now + size], decay[of_decay : of_decay + size], before, later,
            ddecay[now : now + size], ddrive[now : now + size], size // 2,
        )  # fmt: skip
        if opens:
            later[:] = _ZERO
    copy_row(later, dstate[here : here + size], size)


def blocks_of(width: int) -> int:
    """Return the number of blocks of lanes in a row of complex elements."""
    return -(-width // LANES)


@cache
def forward() -> Callable[..., None]:
    """Build the kernel from decay (B, T, D) or (D), drive (B, T, D) to h (B, T, D), last state (B, D), all flat."""

    def kernel(
        decay: Any, drive: Any, state: Any, reset: Any, h: Any, last: Any, first: int, end: int, steps: int, width: int
    ) -> None:
        blocks = (width + LANES - 1) // LANES
        for item in range(first, end):
            row, at = item // blocks, item % blocks * LANES
            lanes = min(LANES, width - at)
            forward_block(decay, drive, state, reset, h, last, row, 2 * at, steps, 2 * width, 2 * lanes)

    return compiled(kernel)


@cache
def backward() -> Callable[..., None]:
    """Build the kernel of the gradients to decay (B, T, D), drive and state from those to h and last state."""

    def kernel(
        decay: Any, state: Any, reset: Any, h: Any, dh: Any, dlast: Any, ddecay: Any, ddrive: Any, dstate: Any,
        first: int, end: int, steps: int, width: int,
    ) -> None:  # fmt: skip
        blocks = (width + LANES - 1) // LANES
        for item in range(first, end):
            row, at = item // blocks, item % blocks * LANES
            lanes = min(LANES, width - at)
            backward_block(
                decay, state, reset, h, dh, dlast, ddecay, ddrive, dstate, row, 2 * at, steps, 2 * width, 2 * lanes
            )

    return compiled(kernel)
