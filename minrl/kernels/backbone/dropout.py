"""Dropout in the compiled blocks: a hash of key and position zeroes elements, so no mask is saved for the backward
pass.

Shapes: D width, N rows.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minrl.kernels.jit.compile import compiled, inlined
from minrl.kernels.jit.memory import matrix, vector
from minrl.kernels.jit.rows import add
from minrl.kernels.jit.threads import ROWS_PER_ITEM, Sums, share_rows

_U, _ZERO = np.uint32, np.float32(0)
# The multipliers of a 32-bit hash with little bias (hash-prospector, "lowbias32").
_FIRST, _SECOND = _U(0x7FEB352D), _U(0x846CA68B)


class Noise(NamedTuple):
    """Dropout of one branch in one scan: key, threshold of the hashes, and scale of the kept elements."""

    low: Any
    high: Any
    threshold: Any
    scale: Any


def draw(rates: tuple[float, ...], kind: Any) -> list[tuple["Noise | None", "Noise | None"]]:
    """Draw the noise of each block's two branches from torch's generator; None where the rate is 0."""
    keys = torch.randint(1 << 32, (len(rates), 4)).tolist()
    return [
        (_noise(rate, low, high, kind), _noise(rate, other_low, other_high, kind))
        for rate, (low, high, other_low, other_high) in zip(rates, keys, strict=True)
    ]


def _noise(rate: float, low: int, high: int, kind: Any) -> Noise | None:
    return Noise(_U(low), _U(high), _U(rate * (1 << 32)), kind(1 / (1 - rate))) if rate else None


def drop_and_add(noise: Noise, x: Tensor, branch: Tensor, out: Tensor, start: int = 0) -> None:
    """Write x (N, D) + dropout of `branch` to `out`; `start` is the number of the first row."""
    addresses = x.data_ptr(), branch.data_ptr(), out.data_ptr()
    share_rows(_forward(), x, *addresses, *x.shape, start, *noise)


def drop(noise: Noise, x: Tensor) -> Tensor:
    """Apply dropout to x (N, D); its backward pass is the same function."""
    return drop_gradient(noise, x)


def drop_gradient(noise: Noise, dy: Tensor, sums: Sums | None = None, part: int = 0, start: int = 0) -> Tensor:
    """Compute the gradient to the branch (N, D); its sum over rows is added to a part of `sums` (D)."""
    dbranch = torch.empty_like(dy)
    arguments = (dy.data_ptr(), dbranch.data_ptr(), *dy.shape, start, *noise)
    if sums is None:
        share_rows(_backward(), dy, 0, *arguments)
    else:
        sums.share_rows(_backward(), part, dy, *arguments)
    return dbranch


@inlined
def stays(place: Any, low: Any, high: Any, threshold: Any) -> bool:
    """Return True if dropout keeps the element at a position."""
    x = _U(_U(place) ^ low)
    x = _U(_U(x ^ (x >> _U(16))) * _FIRST)
    x = _U(_U(x ^ (x >> _U(15))) + high)
    x = _U(_U(x ^ (x >> _U(16))) * _FIRST)
    x = _U(_U(x ^ (x >> _U(15))) * _SECOND)
    return bool(_U(x ^ (x >> _U(16))) >= threshold)


@inlined
def drop_and_add_row(
    x: Any, branch: Any, out: Any, place: Any, low: Any, high: Any, threshold: Any, scale: Any, width: int
) -> None:
    for d in range(width):
        out[d] = x[d] + (branch[d] * scale if stays(place + d, low, high, threshold) else _ZERO)


@inlined
def drop_row(dy: Any, dbranch: Any, place: Any, low: Any, high: Any, threshold: Any, scale: Any, width: int) -> None:
    for d in range(width):
        dbranch[d] = dy[d] * scale if stays(place + d, low, high, threshold) else _ZERO


@cache
def _forward() -> Callable[..., None]:
    def kernel(
        first: int, end: int, x_at: int, branch_at: int, out_at: int, rows: int, width: int, start: int,
        low: Any, high: Any, threshold: Any, scale: Any,
    ) -> None:  # fmt: skip
        x, branch = matrix(x_at, rows, width, scale), matrix(branch_at, rows, width, scale)
        out = matrix(out_at, rows, width, scale)
        for n in range(first * ROWS_PER_ITEM, min(end * ROWS_PER_ITEM, rows)):
            drop_and_add_row(x[n], branch[n], out[n], (start + n) * width, low, high, threshold, scale, width)

    return compiled(kernel)


@cache
def _backward() -> Callable[..., None]:
    def kernel(
        first: int, end: int, sums_at: int, dy_at: int, dbranch_at: int, rows: int, width: int, start: int,
        low: Any, high: Any, threshold: Any, scale: Any,
    ) -> None:  # fmt: skip
        dy, dbranch = matrix(dy_at, rows, width, scale), matrix(dbranch_at, rows, width, scale)
        sums, partial = vector(sums_at, width, scale), np.empty(width, dy.dtype)
        for item in range(first, end):
            partial[:] = _ZERO
            for n in range(item * ROWS_PER_ITEM, min((item + 1) * ROWS_PER_ITEM, rows)):
                drop_row(dy[n], dbranch[n], (start + n) * width, low, high, threshold, scale, width)
                add(partial, dbranch[n], width)
            if sums.size:
                add(sums, partial, width)

    return compiled(kernel)
