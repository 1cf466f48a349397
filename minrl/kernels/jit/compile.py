"""Compilation of CPU kernels with numba, kept on disk, and of the parts that are inlined into them.

It needs numba, so the kernels import it only when the first of them runs.
"""

import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


# Products and sums may become fused multiply-adds; infinities, NaN and the order of sums stay as written.
FAST = {"contract", "nsz"}


# Compiled code is kept under the name of its function and the text of its file; this makes it depend on all of the
# files that it is made of.
_SOURCES = [path.read_bytes() for path in sorted(Path(__file__).parent.parent.rglob("*.py"))]


_REVISION = f"{zlib.crc32(b''.join(source for source in _SOURCES if b'minrl.kernels.jit' in source)):08x}"


_announced = False


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile `function` to machine code that runs without the interpreter's lock, kept on disk where possible."""
    options: dict[str, Any] = {"nogil": True, "fastmath": FAST, "error_model": "numpy"}
    function.__qualname__ = f"{function.__qualname__}_{_REVISION}"
    try:
        kernel = njit(cache=True, **options)(function)
        kept = True
    except RuntimeError:  # no folder can be written to
        kernel, kept = njit(**options)(function), False
    compilations = 0

    def call(*arguments: Any) -> None:
        nonlocal kernel, kept, compilations
        count, begin = len(kernel.overloads), time.perf_counter()
        try:
            kernel(*arguments)
        except OSError:  # the folder is full or gone; nothing has run yet
            kernel, kept, count, compilations = njit(**options)(function), False, 0, 0
            kernel(*arguments)
        if len(kernel.overloads) != count:
            # What is read from disk is a form of the kernel too, and no compilation.
            before, compilations = compilations, sum(kernel.stats.cache_misses.values())
            if compilations > before:
                _announce(time.perf_counter() - begin, kept)

    return call


def inlined(function: Function, fastmath: set[str] = FAST) -> Function:
    """Return `function` as a part of the kernels that call it; arrays that it writes to must not overlap others."""
    kernel: Any = njit(forceinline=True, fastmath=fastmath, error_model="numpy")(function)
    # Numba has no public way to say what it says of its own loops: without it a loop over more than a few rows
    # is not vectorised. Where a release has moved this, the kernels are right and slower.
    if hasattr(kernel, "_compiler"):
        kernel._compiler._customize_flags = _without_aliases
    part: Function = kernel
    return part


def summing(function: Function) -> Function:
    """Run as `inlined` does, with sums in whatever order is fastest."""
    return inlined(function, FAST | {"reassoc"})


def _without_aliases(flags: Any) -> Any:
    flags.noalias = True
    return flags


def _announce(seconds: float, kept: bool) -> None:
    """Write one line, once, where compiling made the user wait."""
    global _announced
    if seconds > 1 and not _announced:
        _announced = True
        where = "kept on disk for later runs" if kept else "not kept: no folder for it; NUMBA_CACHE_DIR names one"
        print(f"minrl: compiled a CPU kernel in {seconds:.1f} s ({where})", file=sys.stderr)
