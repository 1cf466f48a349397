"""Loops over one row of elements that several kernels share."""

from typing import Any

from minrl.kernels.jit.compile import inlined
from minrl.kernels.jit.memory import prefetch_read, prefetch_write


@inlined
def add(x: Any, y: Any, size: int) -> None:
    """Compute x += y."""
    for d in range(size):
        x[d] += y[d]


@inlined
def add_product(y: Any, a: Any, b: Any, size: int) -> None:
    """Compute y += a * b."""
    for d in range(size):
        y[d] += a[d] * b[d]


@inlined
def add_to(x: Any, y: Any, z: Any, size: int) -> None:
    """Compute z = x + y."""
    for d in range(size):
        z[d] = x[d] + y[d]


# Elements (of float32) of a cache line, the unit of a prefetch.
_CACHE_LINE = 16


@inlined
def prefetch_row_to_read(x: Any, at: int, lanes: int) -> None:
    """Prefetch all cache lines of a row of lanes."""
    for line in range(0, lanes, _CACHE_LINE):
        prefetch_read(x, at + line)


@inlined
def prefetch_row_to_write(x: Any, at: int, lanes: int) -> None:
    """Prefetch a row that will be written."""
    for line in range(0, lanes, _CACHE_LINE):
        prefetch_write(x, at + line)


@inlined
def copy_row(source: Any, target: Any, lanes: int) -> None:
    for d in range(lanes):
        target[d] = source[d]
