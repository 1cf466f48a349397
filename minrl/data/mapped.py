"""Memory-mapped arrays: files larger than memory, written and copied in constant memory."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BYTES_AT_ONCE = 1 << 24  # bytes of a mapped array in memory while it is written or copied


def leave_memory(array: npt.NDArray[Any]) -> None:
    """Release the pages of a mapped file, which count as this process's memory; do nothing to other arrays."""
    mapping = getattr(array, "_mmap", None)
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def room_beside(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Allocate an array of the same type: in memory, or for a large mapped one in an unnamed file beside it."""
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
    """Reserve `size` bytes on disk, as a write through a mapping to a full disk would kill the process."""
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    elif size:
        os.truncate(file, size)
