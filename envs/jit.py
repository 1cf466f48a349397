"""Compilation of tasks with numba, cached on disk if a folder is writable."""

import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

# Numba keys compiled code by the function's name and its file's text alone; here it also depends on inlined functions
# and on constants read from Gymnasium.
_SOURCES = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
_REVISION = f"{zlib.crc32(_SOURCES + version('gymnasium').encode()):08x}"


def jitted(function: Function) -> Function:
    """Compile a function that other compiled functions call, and Python may."""
    compiled: Function = _kept(numba.njit, function, nogil=True, error_model="numpy")
    return compiled


def row_function(function: Callable[..., Any], signature: Any) -> Any:
    """Compile a function of one row for a signature of numba; the result has an `address`."""
    plain = getattr(function, "py_func", function)
    return _kept(lambda **options: numba.cfunc(signature, **options), plain, nopython=True, error_model="numpy")


def _kept(decorator: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Any:
    named = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    named.__qualname__, named.__doc__ = f"{function.__qualname__}_{_REVISION}", function.__doc__
    named.__module__ = function.__module__
    try:
        return decorator(cache=True, **options)(named)
    except RuntimeError:  # no file, or no folder to keep it in
        return decorator(**options)(named)
