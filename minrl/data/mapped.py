"""Arrays in files: memory holds a constant part of them, however large they are."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BYTES_AT_ONCE = 1 << 24  # bounds what is held of a mapped array while it is written or copied


def leave_memory(array: npt.NDArray[Any]) -> None:
    """Hand the pages of a mapped file back to the system's file cache; do nothing to an array in memory.

    Pages that were touched count as this process's memory until then.
    """
    mapping = getattr(array, "_mmap", None)
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def room_beside(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an array of the same type to write into: in memory, or in an unnamed file beside a large mapped one."""
    size = int(np.prod(shape, dtype=np.int64)) * array.dtype.itemsize
    name = getattr(array, "filename", None)
    if isinstance(array, np.memmap) and name is not None and size > BYTES_AT_ONCE:
        try:
            with tempfile.TemporaryFile(dir=Path(name).parent) as file:
                reserve(file.fileno(), size)
                return np.memmap(file, dtype=array.dtype, mode="r+", shape=shape)
        except OSError:  # a read-only or full disk
            pass
    return np.empty(shape, dtype=array.dtype)


def reserve(file: int, size: int) -> None:
    """Reserve a file's room: else a full disk would kill the process at the first write through the mapping."""
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    elif size:
        os.truncate(file, size)
