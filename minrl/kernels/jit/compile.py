"""Compilation of CPU kernels with numba, kept on disk, and of the parts that are inlined into them.

It needs numba, so the kernels import it only when the first of them runs.
"""

import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numba import cfunc, njit
from numba.core.caching import FunctionCache, NullCache

from minrl.kernels.jit.turn import Turn

# Parts of kernels are called from compiled code alone: what Python or C would call them by is not compiled.
_PART: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# Numba's reference counts (its option has no public name): each slice of a row takes two calls, which were 11 % of an
# update of PPO at width 64.
_COUNTED: dict[str, Any] = {"_nrt": True}
_UNCOUNTED: dict[str, Any] = {"_nrt": False}
Function = TypeVar("Function", bound=Callable[..., Any])


# Products and sums may become fused multiply-adds; infinities, NaN and the order of sums stay as written.
FAST = {"contract", "nsz"}


# Numba keys compiled code by the function's name and its file's text; this revision adds the texts of all kernel files,
# whose functions are inlined.
_SOURCES = [path.read_bytes() for path in sorted(Path(__file__).parent.parent.rglob("*.py"))]


_REVISION = f"{zlib.crc32(b''.join(source for source in _SOURCES if b'minrl.kernels.jit' in source)):08x}"


_announced = False


def compiled(function: Callable[..., None], *, allocates: bool = True) -> Callable[..., None]:
    """Compile `function` to machine code that runs without the interpreter's lock, kept on disk where possible.

    Args:
        function: its arguments are arrays and numbers.
        allocates: count references to arrays, which one that makes none can do without.
    """
    function.__qualname__ = f"{function.__qualname__}_{_REVISION}"
    counts = _COUNTED if allocates else _UNCOUNTED
    kernel: Any = njit(nogil=True, fastmath=FAST, error_model="numpy", **counts)(function)
    kernel._cache = _AnnouncedCache(function)
    run: Callable[..., None] = kernel
    return run


class _AnnouncedCache:
    """Numba's cache of a function: loads machine code before a compilation, saves it afterwards, announces long ones.

    In a folder that is full or gone nothing is saved, and the call still returns. Of several processes that need the
    same kernel one compiles it while the others wait: numba's own files are not made for two that write at once.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._begin, self._keeps = 0.0, True
        self._turn: Turn | None = None
        try:
            self._cache: Any = FunctionCache(function)  # type: ignore[no-untyped-call, unused-ignore]
        except RuntimeError:  # no folder is writable
            self._cache, self._keeps = NullCache(), False
        if self._keeps:
            self._turn = _turn_at(self._cache, function)
        self.flush, self.cache_path = self._cache.flush, self._cache.cache_path

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the machine code of a signature, None if there is none."""
        code = self._load(signature, target)
        if code is None and self._turn is not None:
            self._turn.take()
            code = self._load(signature, target)  # another process may have kept it
            if code is not None:
                self._turn.give()
        self._begin = time.perf_counter()
        return code

    def _load(self, signature: Any, target: Any) -> Any:
        try:
            return self._cache.load_overload(signature, target)
        except OSError:
            return None

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep the machine code of a signature."""
        seconds, kept = time.perf_counter() - self._begin, self._keeps
        try:
            self._cache.save_overload(signature, code)
        except OSError:
            kept = False
        if self._turn is not None:
            self._turn.give()
        _announce(seconds, kept)


def _turn_at(cache: Any, function: Callable[..., None]) -> Turn:
    """Return the lock of a function's file of machine code."""
    name = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")
    return Turn(Path(cache.cache_path) / f"{name}.lock")


def inlined(function: Function, fastmath: set[str] = FAST, *, allocates: bool = False) -> Function:
    """Return `function` as a part of the kernels that call it; arrays that it writes to must not overlap others.

    It makes and returns no array, so that it need not count references to any.
    """
    counts = _COUNTED if allocates else _UNCOUNTED
    kernel: Any = njit(forceinline=True, fastmath=fastmath, **_PART, **counts)(function)
    # Numba has no public switch for the `noalias` that it sets in its own loops: without it a loop over more than a
    # few rows is not vectorised. Where a release has moved this, the kernels are right and slower.
    if hasattr(kernel, "_compiler"):
        kernel._compiler._customize_flags = _without_aliases
    part: Function = kernel
    return part


def allocating(function: Function) -> Function:
    """Return `function` as `inlined` does; it may make arrays, and return them."""
    return inlined(function, allocates=True)


def called(function: Function) -> Function:
    """Return `function` as a part of the kernels that call it, compiled once for all of its callers."""
    part: Function = njit(fastmath=FAST, **_PART, **_COUNTED)(function)
    return part


def uncounted(function: Function) -> Function:
    """Return `function` as `called` does; it makes no array, so that it need not count references to any."""
    part: Function = njit(fastmath=FAST, **_PART, **_UNCOUNTED)(function)
    return part


def addressed(function: Callable[..., None], signature: Any) -> int:
    """Return the address of `function` compiled by itself, kept on disk where possible, to be called through it.

    What is large and called from many places is then compiled once, not with each of its callers.
    """
    options: dict[str, Any] = {"nopython": True, "fastmath": FAST, "error_model": "numpy"}
    function.__qualname__ = f"{function.__qualname__}_{_REVISION}"
    turn = None
    try:
        turn = _turn_at(FunctionCache(function), function)  # type: ignore[no-untyped-call, unused-ignore]
        turn.take()
        kernel = cfunc(signature, cache=True, **options)(function)
    except (RuntimeError, OSError):  # no folder can be written to
        kernel = cfunc(signature, **options)(function)
    finally:
        if turn is not None:
            turn.give()
    _addressed.append(kernel)
    return int(kernel.address or 0)


_addressed: list[Any] = []  # code lives as long as its object


def summing(function: Function) -> Function:
    """Return `function` as `inlined` does, with sums in any order."""
    return inlined(function, FAST | {"reassoc"})


def _without_aliases(flags: Any) -> Any:
    flags.noalias = True
    return flags


def _announce(seconds: float, kept: bool) -> None:
    """Write one line to standard error, once, after a long compilation."""
    global _announced
    if seconds > 1 and not _announced:
        _announced = True
        where = "kept on disk for later runs" if kept else "not kept: no folder for it; NUMBA_CACHE_DIR names one"
        print(f"minrl: compiled a CPU kernel in {seconds:.1f} s ({where})", file=sys.stderr)
