"""Mean, spread and extremes of the columns of an array that may be larger than memory.

Shapes: N rows, P columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.data.episode import BoolArray

_BLOCK = 1 << 19  # numbers held in float64 at a time: 4 MiB


@dataclass(frozen=True)
class Moments:
    """Statistics of each column in float64, (P,) each."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    constant: BoolArray  # whether a column never changes by more than the rounding of its type


def column_moments(rows: npt.NDArray[Any]) -> Moments:
    """Compute the moments of (N, P) in two passes over blocks of rows; what is held does not grow with N.

    A column counts as constant where its standard deviation is below 2^-24 of its largest magnitude in float32: one
    that alternates between two neighbouring floats stays below, one with a few values more does not. In float64, where
    values come out of computations that round several times, the bound is 2^-45.
    """
    mean = _sum(rows) / len(rows)
    std = np.sqrt(_sum(rows, mean) / len(rows))
    blocks = _blocks(rows)
    low = np.min([block.min(axis=0) for block in blocks], axis=0).astype(np.float64)
    high = np.max([block.max(axis=0) for block in blocks], axis=0).astype(np.float64)
    largest = np.maximum(np.abs(low), np.abs(high))
    resolution = 2.0**-45 if rows.dtype == np.float64 else 2.0**-24
    # Below the smallest normal float32 nothing can be divided by.
    constant = (low == high) | (std <= np.maximum(resolution * largest, np.finfo(np.float32).tiny))
    return Moments(mean, std, low, high, constant)


def _blocks(rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    count = max(1, _BLOCK // max(1, rows.shape[1]))
    return [rows[first : first + count] for first in range(0, len(rows), count)]


def _sum(rows: npt.NDArray[Any], mean: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
    """Sum the columns, or their squared distances from `mean`, in float64: (N, P) -> (P,)."""
    total = np.zeros(rows.shape[1])
    for block in _blocks(rows):
        values = block.astype(np.float64)
        if mean is not None:
            values -= mean
            values *= values
        # The sum so far goes in as a row, so that the order of additions is that of one sum over all rows.
        values[0] += total
        total = values.sum(axis=0)
    return total
