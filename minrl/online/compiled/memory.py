"""Buffers that compiled calls work on, by their addresses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

Array = Any  # of numpy, of one type
_LINE = 64  # bytes


class Arena:
    """Buffers of elements of one type, each from the start of a cache line; they live as long as the arena.

    Args:
        dtype: float32 or float64.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._kept: list[Array] = []

    def array(self, *shape: int, dtype: Any = None) -> Array:
        """Return a new buffer of zeros."""
        kind = self.dtype if dtype is None else np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        # At different places of their pages: stores to one would look to the processor like those to another.
        shift = _LINE * (len(self._kept) * 5 % 61)
        room = np.zeros(size + shift + 2 * _LINE, np.uint8)
        first = shift + -(room.ctypes.data + shift) % _LINE
        found: Array = room[first : first + size].view(kind).reshape(shape)
        self._kept.append(found)
        return found

    def take(self, *shape: int) -> int:
        """Return the address of a new buffer of zeros."""
        return int(self.array(*shape).ctypes.data)

    def keep(self, other: "Arena") -> None:
        """Keep the buffers of another arena alive too."""
        self._kept += other._kept


def address(x: Tensor | None) -> int:
    """Return where a tensor lies, 0 for None."""
    return 0 if x is None else x.data_ptr()


def words(rows: Sequence[Any]) -> Array:
    """Return addresses or sizes as int64, at least one row so that compiled code knows the type."""
    return np.array(rows, np.int64)
