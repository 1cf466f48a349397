"""The matmul of a few rows with the LSTM's weights, compiled: each weight is read once for two batch rows.

Eight rows of the weights at a time are added to whole rows of sums, which are then seldom read; for a few rows this is
as fast as weights can be read from the second cache. Indices are unsigned, as numba tests signed ones for counting from
the end, and a slice costs as much as a dozen multiply-adds.

Shapes: R rows, K elements of a row, N sums of a row.
"""

from typing import Any

import numpy as np

from minrl.kernels.jit.compile import inlined

_U = np.uintp
_0, _1, _2, _3, _4, _5, _6, _7, _8 = (_U(i) for i in range(9))
# Sums of a row per pass: with eight rows of weights they stay in the first cache.
_LANES = _U(512)
# Rows transposed at a time: a cache line.
_BLOCK = _U(16)


@inlined
def add_product(
    y: Any, y_at: int, y_stride: int, x: Any, x_at: int, x_stride: int, weight: Any, w_stride: int,
    rows: int, size: int, out: int, turn: int,
) -> None:  # fmt: skip
    """Compute y (R, N) += x (R, K) @ weight (K, N); all flat, and the rows of each `stride` apart, of y and x from
    `at` on.

    An odd `turn` goes through the weights from the end, beginning with those that the last matmul left in the cache.
    """
    rows_, size_, out_ = _U(rows), _U(size), _U(out)
    of_y, next_y, of_x, next_x, next_w = _U(y_at), _U(y_stride), _U(x_at), _U(x_stride), _U(w_stride)
    eights, blocks, back = size_ // _8, (out_ + _LANES - _1) // _LANES, _U(turn) % _2
    for i in range(_0, blocks):
        first: Any = (blocks - _1 - i if back else i) * _LANES
        lanes = min(_LANES, out_ - first)
        for j in range(_0, eights):
            k: Any = (eights - _1 - j if back else j) * _8
            w, b = k * next_w + first, _0
            while b + _1 < rows_:
                here, there = of_y + b * next_y + first, of_x + b * next_x + k
                # Two names for y: its rows do not overlap, which numba knows of arguments alone.
                add_eight_to_two(y, here, y, here + next_y, x, there, there + next_x, weight, w, next_w, lanes)
                b += _2
            if b < rows_:
                add_eight(y, of_y + b * next_y + first, x, of_x + b * next_x + k, weight, w, next_w, lanes)
        for rest in range(eights * _8, size_):
            for row in range(_0, rows_):
                add_one(
                    y, of_y + row * next_y + first, x, of_x + row * next_x + rest, weight, rest * next_w + first, lanes
                )


@inlined
def transpose(x: Any, y: Any, y_stride: int, rows: int, size: int) -> None:
    """Transpose x (R, K), with the rows of y (K, R) `stride` apart."""
    rows_, size_, next_y = _U(rows), _U(size), _U(y_stride)
    for first in range(_0, rows_, _BLOCK):
        lanes = min(_BLOCK, rows_ - first)
        for k in range(_0, size_):
            for d in range(_0, lanes):
                y[k * next_y + first + d] = x[(first + d) * size_ + k]


@inlined
def add_one(y: Any, y_at: Any, x: Any, x_at: Any, w: Any, w_at: Any, lanes: Any) -> None:
    x0 = x[x_at]
    for d in range(lanes):
        y[y_at + d] += x0 * w[w_at + d]


@inlined
def add_eight(y: Any, y_at: Any, x: Any, x_at: Any, w: Any, w0: Any, stride: Any, lanes: Any) -> None:
    x0, x1, x2, x3 = x[x_at], x[x_at + _1], x[x_at + _2], x[x_at + _3]
    x4, x5, x6, x7 = x[x_at + _4], x[x_at + _5], x[x_at + _6], x[x_at + _7]
    w1, w2, w3, w4, w5, w6, w7 = (
        w0 + stride, w0 + _2 * stride, w0 + _3 * stride, w0 + _4 * stride,
        w0 + _5 * stride, w0 + _6 * stride, w0 + _7 * stride,
    )  # fmt: skip
    for d in range(lanes):
        # Two chains of sums, as one would wait for its own additions.
        s, r = y[y_at + d] + x0 * w[w0 + d], x4 * w[w4 + d]
        s, r = s + x1 * w[w1 + d], r + x5 * w[w5 + d]
        s, r = s + x2 * w[w2 + d], r + x6 * w[w6 + d]
        y[y_at + d] = (s + x3 * w[w3 + d]) + (r + x7 * w[w7 + d])


@inlined
def add_eight_to_two(
    y: Any, y_at: Any, z: Any, z_at: Any, x: Any, x_at: Any, v_at: Any, w: Any, w0: Any, stride: Any, lanes: Any
) -> None:
    x0, x1, x2, x3 = x[x_at], x[x_at + _1], x[x_at + _2], x[x_at + _3]
    x4, x5, x6, x7 = x[x_at + _4], x[x_at + _5], x[x_at + _6], x[x_at + _7]
    v0, v1, v2, v3 = x[v_at], x[v_at + _1], x[v_at + _2], x[v_at + _3]
    v4, v5, v6, v7 = x[v_at + _4], x[v_at + _5], x[v_at + _6], x[v_at + _7]
    w1, w2, w3, w4, w5, w6, w7 = (
        w0 + stride, w0 + _2 * stride, w0 + _3 * stride, w0 + _4 * stride,
        w0 + _5 * stride, w0 + _6 * stride, w0 + _7 * stride,
    )  # fmt: skip
    for d in range(lanes):
        s, r = y[y_at + d] + x0 * w[w0 + d], x4 * w[w4 + d]
        q, p = z[z_at + d] + v0 * w[w0 + d], v4 * w[w4 + d]
        s, r = s + x1 * w[w1 + d], r + x5 * w[w5 + d]
        q, p = q + v1 * w[w1 + d], p + v5 * w[w5 + d]
        s, r = s + x2 * w[w2 + d], r + x6 * w[w6 + d]
        q, p = q + v2 * w[w2 + d], p + v6 * w[w6 + d]
        y[y_at + d] = (s + x3 * w[w3 + d]) + (r + x7 * w[w7 + d])
        z[z_at + d] = (q + v3 * w[w3 + d]) + (p + v7 * w[w7 + d])
