"""The compiled loops of the short causal convolution on a CPU; what it shares with a block's is in `conv_loops`.

Tensors are read and written where torch keeps them, through their addresses. One call does all steps of the batch
rows `first` to `end`.

Shapes: B batch, T time, D width, K taps, S = (K - 1) * D numbers of a state.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.backbone.conv_loops import keep_last, taps_backward
from minrl.kernels.jit.compile import compiled
from minrl.kernels.jit.memory import matrix, vector
from minrl.kernels.jit.rows import add, add_product, copy_row
from minrl.kernels.jit.threads import ROWS_PER_ITEM

_ZERO, _BYTE = np.float32(0), np.uint8(0)


@cache
def forward() -> Callable[..., None]:
    """Return x (B, T, D), taps (K, D), bias, recent inputs (B, S), resets -> y (B, T, D), last inputs (B, S)."""

    def kernel(
        x_at: int, taps_at: int, bias_at: int, recent_at: int, reset_at: int, y_at: int, last_at: int,
        first: int, end: int, batch: int, steps: int, width: int, taps: int, like: Any,
    ) -> None:  # fmt: skip
        past = taps - 1
        x, y = matrix(x_at, batch * steps, width, like), matrix(y_at, batch * steps, width, like)
        tap, bias = matrix(taps_at, taps, width, like), vector(bias_at, width, like)
        recents, lasts = matrix(recent_at, batch, past * width, like), matrix(last_at, batch, past * width, like)
        resets = matrix(reset_at, batch, steps, _BYTE)
        for b in range(first, end):
            reset, recent = resets[b], recents[b]
            for t in range(steps):
                n = b * steps + t
                copy_row(bias, y[n], width)
                add_product(y[n], tap[past], x[n], width)
                for lag in range(1, past + 1):
                    if t - lag + 1 >= 0 and reset[t - lag + 1]:
                        break
                    at = (t - lag + past) * width
                    source = x[n - lag] if t >= lag else recent[at : at + width]
                    add_product(y[n], tap[past - lag], source, width)
            for t in range(steps - past, steps):
                at = (t + past) * width
                source = x[b * steps + t] if t >= 0 else recent[at : at + width]
                keep_last(source, lasts[b], reset, t, steps, past, width)

    return compiled(kernel)


@cache
def backward() -> Callable[..., None]:
    """Compute from dy (B, T, D) and `dlast` (B, S) the gradients to x and the recent inputs.

    Those of each row to the taps and the bias are added to `sums` (B, K + 1, D).
    """

    def kernel(
        x_at: int, taps_at: int, recent_at: int, reset_at: int, dy_at: int, dlast_at: int, dx_at: int,
        drecent_at: int, sums_at: int,
        first: int, end: int, batch: int, steps: int, width: int, taps: int, like: Any,
    ) -> None:  # fmt: skip
        past, rows = taps - 1, batch * steps
        x, dy, dx = matrix(x_at, rows, width, like), matrix(dy_at, rows, width, like), matrix(dx_at, rows, width, like)
        tap, sums = matrix(taps_at, taps, width, like), matrix(sums_at, batch * (taps + 1), width, like)
        recents, dlasts = matrix(recent_at, batch, past * width, like), matrix(dlast_at, batch, past * width, like)
        drecents, resets = matrix(drecent_at, batch, past * width, like), matrix(reset_at, batch, steps, _BYTE)
        partial = np.zeros((taps + 1, width), x.dtype)
        for b in range(first, end):
            reset, recent, dlast, drecent = resets[b], recents[b], dlasts[b], drecents[b]
            total = sums[b * (taps + 1) : (b + 1) * (taps + 1)]
            for t in range(-past, steps):
                if t < 0:
                    at = (t + past) * width
                    y, found = recent[at : at + width], drecent[at : at + width]
                else:
                    y, found = x[b * steps + t], dx[b * steps + t]
                    add(partial[taps], dy[b * steps + t], width)
                taps_backward(y, dy, b * steps, steps, t, tap, reset, dlast, found, partial, width)
                # Long sums of float32 lose digits.
                if t % ROWS_PER_ITEM == ROWS_PER_ITEM - 1 or t == steps - 1:
                    add(total.reshape(-1), partial.reshape(-1), (taps + 1) * width)
                    partial[:] = _ZERO

    return compiled(kernel)
