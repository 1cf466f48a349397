"""The compiled loops of a block between its matmuls: norm, recurrence, GELU, and their backward passes.

Tensors are read and written where torch keeps them, through their addresses; an address of 0 is one that is not
there. One call does the items `first` to `end`: blocks of lanes of a sequence, or pieces of the rows. What is summed
over rows is added to the elements at `sums_at`.

Shapes: B batch, T time, D width, H inner width, M hidden width, N = B * T rows, S state size, P parts of the gates.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.backbone.norm_gelu import gelu, gelu_gradients, normalise, normalise_gradients, scaled
from minrl.kernels.jit.compile import allocating, compiled, inlined
from minrl.kernels.jit.memory import matrix, vector
from minrl.kernels.jit.rows import add, add_to
from minrl.kernels.jit.threads import ROWS_PER_ITEM
from minrl.kernels.scan.cpu_loops import LANES, gated_backward_block, gated_forward_block

_ZERO, _BYTE = np.float32(0), np.uint8(0)


def norm_rows(
    first: int, end: int, x_at: int, weight_at: int, bias_at: int, y_at: int, stats_at: int, shift_at: int,
    out_at: int, rows: int, width: int, epsilon: Any,
) -> None:  # fmt: skip
    """Compute the layer norm of x (N, D); where there is a place for it, `out` is x + `shift` (D)."""
    x, y = matrix(x_at, rows, width, epsilon), matrix(y_at, rows, width, epsilon)
    weight, bias = vector(weight_at, width, epsilon), vector(bias_at, width, epsilon)
    shift, out = vector(shift_at, width, epsilon), matrix(out_at, rows, width, epsilon)
    stats = matrix(stats_at, rows, 2, epsilon)
    for n in range(first * ROWS_PER_ITEM, min(end * ROWS_PER_ITEM, rows)):
        stats[n, 0], stats[n, 1] = normalise(x[n], weight, bias, epsilon, y[n], width)
        if shift.size:
            add_to(x[n], shift, out[n], width)


@cache
def norm_forward() -> Callable[..., None]:
    """Build the kernel of `norm_rows`."""
    return compiled(norm_rows, allocates=False)


def norm_rows_backward(
    first: int, end: int, sums_at: int, x_at: int, stats_at: int, weight_at: int, bias_at: int, dy_at: int,
    around_at: int, dx_at: int, y_at: int, rows: int, width: int, like: Any,
) -> None:  # fmt: skip
    """Compute from dy (N, D) dx plus `around` (N, D). Sums: weight, bias and `around` (3, D).

    Where there is a place for it, y is recomputed.
    """
    x, dx = matrix(x_at, rows, width, like), matrix(dx_at, rows, width, like)
    y, dy = matrix(y_at, rows, width, like), matrix(dy_at, rows, width, like)
    around, stats = matrix(around_at, rows, width, like), matrix(stats_at, rows, 2, like)
    weight, bias = vector(weight_at, width, like), vector(bias_at, width, like)
    sums, partial = vector(sums_at, 3 * width, like), np.empty((3, width), x.dtype)
    _norm_backward(first, end, x, stats, weight, bias, dy, around, dx, y, sums, partial, rows, width)


@inlined
def _norm_backward(
    first: int, end: int, x: Any, stats: Any, weight: Any, bias: Any, dy: Any, around: Any, dx: Any, y: Any, sums: Any,
    partial: Any, rows: int, width: int,
) -> None:  # fmt: skip
    for item in range(first, end):
        partial[:] = _ZERO
        for n in range(item * ROWS_PER_ITEM, min((item + 1) * ROWS_PER_ITEM, rows)):
            mean, scale = stats[n, 0], stats[n, 1]
            normalise_gradients(x[n], mean, scale, weight, dy[n], dx[n], partial[0], partial[1], width)
            if around.size:
                add(dx[n], around[n], width)
                add(partial[2], around[n], width)
            if y.size:
                scaled(x[n], mean, scale, weight, bias, y[n], width)
        for k in range(3):
            add(sums[k * width :], partial[k], width)


@cache
def norm_backward() -> Callable[..., None]:
    """Build the kernel of `norm_rows_backward`."""
    return compiled(norm_rows_backward)


def gelu_rows(first: int, end: int, a_at: int, y_at: int, rows: int, width: int, like: Any) -> None:
    """Compute GELU of a (N, M) to y."""
    a, y = matrix(a_at, rows, width, like), matrix(y_at, rows, width, like)
    for n in range(first * ROWS_PER_ITEM, min(end * ROWS_PER_ITEM, rows)):
        gelu(a[n], y[n], width)


@cache
def gelu_forward() -> Callable[..., None]:
    """Build the kernel of `gelu_rows`."""
    return compiled(gelu_rows, allocates=False)


def gelu_rows_backward(
    first: int, end: int, sums_at: int, a_at: int, y_at: int, dy_at: int, rows: int, width: int, like: Any
) -> None:
    """Compute y = GELU(a) (N, M), and the gradient to a in place of that to y. Sums: the gradient to a (M)."""
    a, y, dy = matrix(a_at, rows, width, like), matrix(y_at, rows, width, like), matrix(dy_at, rows, width, like)
    _gelu_backward(first, end, a, y, dy, vector(sums_at, width, like), np.empty(width, a.dtype), rows, width)


@inlined
def _gelu_backward(
    first: int, end: int, a: Any, y: Any, dy: Any, sums: Any, partial: Any, rows: int, width: int
) -> None:
    for item in range(first, end):
        partial[:] = _ZERO
        for n in range(item * ROWS_PER_ITEM, min((item + 1) * ROWS_PER_ITEM, rows)):
            gelu_gradients(a[n], y[n], dy[n], partial, width)
        add(sums, partial, width)


@cache
def gelu_backward() -> Callable[..., None]:
    """Build the kernel of `gelu_rows_backward`."""
    return compiled(gelu_rows_backward)


@allocating
def scan_items(
    first: int, end: int, gates_at: int, memory_at: int, reset_at: int, h_at: int, last_at: int, x_at: int,
    out_at: int, batch: int, steps: int, inner: int, state_size: int, flip: Any,
    parts: int, candidate: int,
) -> None:  # fmt: skip
    """Compute from gates (B, T, PH) and memory (B, S) h (B, T, H) and the last memory; where there is a place,
    `out` is x + h."""
    gates, resets = matrix(gates_at, batch, steps * parts * inner, flip), matrix(reset_at, batch, steps, _BYTE)
    memories, lasts = matrix(memory_at, batch, state_size, flip), matrix(last_at, batch, state_size, flip)
    h, blocks = matrix(h_at, batch, steps * inner, flip), (inner + LANES - 1) // LANES
    x, out = matrix(x_at, batch, steps * inner, flip), matrix(out_at, batch, steps * inner, flip)
    for item in range(first, end):
        b, at = item // blocks, item % blocks * LANES
        lanes = min(LANES, inner - at)
        gated_forward_block(
            gates[b], memories[b], resets[b], h[b], lasts[b],
            0, at, steps, inner, parts, candidate, flip, lanes,
        )  # fmt: skip
        if out.size:
            _add_to_rows(x[b], h[b], out[b], at, steps * inner, inner, lanes)


@inlined
def _add_to_rows(x: Any, h: Any, out: Any, at: int, end: int, inner: int, lanes: int) -> None:
    for n in range(at, end, inner):
        add_to(x[n : n + lanes], h[n : n + lanes], out[n : n + lanes], lanes)


@cache
def scan_forward(parts: int, candidate: int) -> Callable[..., None]:
    """Build the kernel of `scan_items`."""

    def kernel    (
        first: int, end: int, gates_at: int, memory_at: int, reset_at: int, h_at: int, last_at: int, x_at: int,
        out_at: int, batch: int, steps: int, inner: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        scan_items(
            first, end, gates_at, memory_at, reset_at, h_at, last_at, x_at, out_at, batch, steps, inner, state_size,
            flip, parts, candidate,
        )  # fmt: skip

    return compiled(kernel)


@allocating
def scan_items_backward(
    first: int, end: int, sums_at: int, gates_at: int, memory_at: int, reset_at: int, h_at: int, dh_at: int,
    dlast_at: int, dgates_at: int, dmemory_at: int, batch: int, steps: int, inner: int, state_size: int, flip: Any,
    parts: int, candidate: int,
) -> None:  # fmt: skip
    """Compute from dh (B, T, H), `dlast` (B, S) dgates (B, T, PH), `dmemory` (B, S). Sums: dgates (PH)."""
    columns, blocks = parts * inner, (inner + LANES - 1) // LANES
    gates = matrix(gates_at, batch, steps * columns, flip)
    dgates = matrix(dgates_at, batch, steps * columns, flip)
    memories, resets = matrix(memory_at, batch, state_size, flip), matrix(reset_at, batch, steps, _BYTE)
    dlasts, dmemories = matrix(dlast_at, batch, state_size, flip), matrix(dmemory_at, batch, state_size, flip)
    h, dh = matrix(h_at, batch, steps * inner, flip), matrix(dh_at, batch, steps * inner, flip)
    sums, partial = vector(sums_at, columns, flip), np.empty(LANES, h.dtype)
    for item in range(first, end):
        b, at = item // blocks, item % blocks * LANES
        lanes, of_row = min(LANES, inner - at), dgates[b]
        gated_backward_block(
            gates[b], memories[b], resets[b], h[b], dh[b], dlasts[b], of_row, dmemories[b],
            0, at, steps, inner, parts, candidate, flip, lanes,
        )  # fmt: skip
        _add_rows(of_row, sums, partial, at, steps, columns, inner, lanes)


@inlined
def _add_rows(rows: Any, sums: Any, partial: Any, at: int, steps: int, columns: int, inner: int, lanes: int) -> None:
    for start in range(0, steps, ROWS_PER_ITEM):
        for place in range(at, columns, inner):
            partial[:] = _ZERO
            for t in range(start, min(start + ROWS_PER_ITEM, steps)):
                add(partial, rows[t * columns + place : t * columns + place + lanes], lanes)
            add(sums[place : place + lanes], partial, lanes)


@cache
def scan_backward(parts: int, candidate: int) -> Callable[..., None]:
    """Build the kernel of `scan_items_backward`."""

    def kernel    (
        first: int, end: int, sums_at: int, gates_at: int, memory_at: int, reset_at: int, h_at: int, dh_at: int,
        dlast_at: int, dgates_at: int, dmemory_at: int, batch: int, steps: int, inner: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        scan_items_backward(
            first, end, sums_at, gates_at, memory_at, reset_at, h_at, dh_at, dlast_at, dgates_at, dmemory_at, batch,
            steps, inner, state_size, flip, parts, candidate,
        )  # fmt: skip

    return compiled(kernel)
