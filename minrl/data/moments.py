"""Column statistics of arrays larger than memory, and the loss of precision of a cast to float32.

Shapes: N rows, P columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 19  # elements in float64 at a time: 4 MiB
# Relative to the largest magnitude of a column: a smaller standard deviation counts as rounding.
_RESOLUTION = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-45}


@dataclass(frozen=True)
class Moments:
    """Statistics of each column in float64, (P,) each."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    constant: npt.NDArray[np.bool_]  # True for a column that varies by no more than its type's rounding


def column_moments(rows: npt.NDArray[Any]) -> Moments:
    """Compute the moments of (N, P) in two passes over blocks of rows, in constant memory.

    A column counts as constant if its standard deviation is below 2^-24 of its largest magnitude in float32: one that
    alternates between two neighbouring floats is constant, one with a few more values is not. In float64, where
    values were rounded several times as they were computed, the bound is 2^-45.
    """
    mean = _sum(rows) / len(rows)
    # The mean of the residuals corrects the rounding of a sum whose terms have a large offset.
    rest, squares = (total / len(rows) for total in np.split(_sum(rows, mean), 2))
    mean, std = mean + rest, np.sqrt(np.maximum(squares - rest**2, 0.0))
    blocks = _blocks(rows)
    low = np.min([block.min(axis=0) for block in blocks], axis=0).astype(np.float64)
    high = np.max([block.max(axis=0) for block in blocks], axis=0).astype(np.float64)
    largest = np.maximum(np.abs(low), np.abs(high))
    resolution = _RESOLUTION.get(rows.dtype, 2.0**-24)
    # Dividing by a std below the smallest normal float32 overflows.
    constant = (low == high) | (std <= np.maximum(resolution * largest, np.finfo(np.float32).tiny))
    return Moments(mean, std, low, high, constant)


def _blocks(rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    count = max(1, _BLOCK // max(1, rows.shape[1]))
    return [rows[first : first + count] for first in range(0, len(rows), count)]


def _sum(rows: npt.NDArray[Any], mean: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
    """Sum columns in float64, (N, P) -> (P,); with `mean`, sum residuals and squared residuals, (2 P,)."""
    total = np.zeros(rows.shape[1] * (1 if mean is None else 2))
    for block in _blocks(rows):
        values = block.astype(np.float64)
        if mean is not None:
            values -= mean
            values = np.concatenate([values, values * values], axis=1)
        # The sum so far is added as a row, so that the order of additions is that of one sum over all rows.
        values[0] += total
        total = values.sum(axis=0)
    return total


class Rounding:
    """Loss of precision of each column in a cast from float64 to float32, computed block by block.

    A standardised column has a resolution of 2^-24 standard deviations in float32. If the cast before centring moves
    values by more than 64 times that, as it does for a mean of about 64 standard deviations or more, they are `lost`.
    """

    def __init__(self, columns: int) -> None:
        self._count = 0
        self._error, self._largest, self._mean, self._squares = np.zeros((4, columns))

    def add(self, block: npt.NDArray[Any]) -> None:
        """Accumulate a block (n, P); one that is not float64 loses nothing."""
        if block.dtype != np.float64:
            return
        for rows in _blocks(block):
            self._error = np.maximum(self._error, np.abs(rows - rows.astype(np.float32)).max(axis=0))
            self._largest = np.maximum(self._largest, np.abs(rows).max(axis=0))
            # Chan, Golub and LeVeque's update of a mean and a sum of squares about it.
            mean, count = rows.mean(axis=0), self._count + len(rows)
            step = mean - self._mean
            self._squares += np.square(rows - mean).sum(axis=0) + step**2 * (self._count * len(rows) / count)
            self._mean += step * (len(rows) / count)
            self._count = count

    @property
    def lost(self) -> bool:
        """True if float32 would lose a column's values."""
        return bool(self.blurred(64 * 2.0**-24).any())

    def blurred(self, share: float) -> npt.NDArray[np.bool_]:
        """Mark columns, (P,), whose values the cast moves by more than `share` of their standard deviation."""
        spread = np.sqrt(self._squares / max(1, self._count))
        changes = spread > _RESOLUTION[np.dtype(np.float64)] * self._largest
        moved: npt.NDArray[np.bool_] = changes & (self._error > share * spread)
        return moved


def in_precision(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Cast (N, P) to float32, or to float64 if float32 would lose a column's values; see `Rounding`."""
    array = np.asarray(values)
    if array.ndim == 2 and (array.dtype == np.float64 or (array.dtype.kind in "iu" and array.dtype.itemsize > 2)):
        array = array.astype(np.float64, copy=False)
        rounding = Rounding(array.shape[1])
        rounding.add(array)
        if rounding.lost:
            return array
    return array.astype(np.float32, copy=False)
