"""What the compiled CPU kernels are made of: an exponential that vectorises, prefetching, and how they are compiled.

It needs numba, so the kernels import it only when the first of them runs.
"""

import sys
import time
import zlib
from collections.abc import Callable
from math import factorial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

Function = TypeVar("Function", bound=Callable[..., Any])

# Products and sums may become fused multiply-adds; infinities, NaN and the order of sums stay as written.
FAST = {"contract", "nsz"}
# Compiled code is kept under the name of its function and the text of its file; this makes it depend on this
# file too.
_REVISION = f"{zlib.crc32(Path(__file__).read_bytes()):08x}"

_announced = False


def compiled(function: Callable[..., None], fastmath: set[str] = FAST) -> Callable[..., None]:
    """`function` as machine code that runs without the interpreter's lock, kept on disk where that is possible."""
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    function.__qualname__ = f"{function.__qualname__}_{_REVISION}"
    try:
        kernel = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        kernel = njit(**options)(function)

    def call(*arguments: Any) -> None:
        nonlocal kernel
        count, begin = len(kernel.overloads), time.perf_counter()
        try:
            kernel(*arguments)
        except OSError:  # the folder is full or gone; nothing has run yet
            kernel = njit(**options)(function)
            kernel(*arguments)
        if len(kernel.overloads) != count:
            _announce(time.perf_counter() - begin)

    return call


def inlined(function: Function) -> Function:
    """`function` as a part of the kernels that call it."""
    kernel: Function = njit(forceinline=True, fastmath=FAST, error_model="numpy")(function)
    return kernel


def _announce(seconds: float) -> None:
    """One line, once, where compiling made the user wait."""
    global _announced
    if seconds > 1 and not _announced:
        _announced = True
        print(f"minrl: compiled a CPU kernel in {seconds:.1f} s (kept on disk for later runs)", file=sys.stderr)


@intrinsic  # type: ignore[misc, unused-ignore]
def _float_from_bits(context: Any, bits: Any) -> Any:
    return _bitcast(bits, {types.int32: types.float32, types.int64: types.float64})


@intrinsic  # type: ignore[misc, unused-ignore]
def _bits_of(context: Any, x: Any) -> Any:
    return _bitcast(x, {types.float32: types.int32, types.float64: types.int64})


def _bitcast(source: Any, targets: dict[Any, Any]) -> Any:
    target = targets[source]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(target))

    return target(source), generate


def _prefetch(write: bool) -> Any:
    """A function (array, index) that asks for a cache line ahead of its use; an index out of range does no harm."""

    def build(context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
            word = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
            call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(call, [address, word(int(write)), word(3), word(1)])
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return intrinsic(build)


prefetch_read, prefetch_write = _prefetch(write=False), _prefetch(write=True)


def exponential(x: Any) -> Any:
    """exp(x) as a Taylor polynomial times a power of two, so that loops over it become vector code.

    The largest relative error is 1e-7 in float32 and 3e-16 in float64. Beyond the range of the type it gives the
    last normal number; NaN stays NaN.
    """
    return np.exp(x)


def _exponential_of(x: Any) -> Any:
    if x == types.float32:
        return _exponential_32
    return _exponential_64 if x == types.float64 else None


_F, _D = np.float32, np.float64
_LOG2_E = 1.4426950408889634
# log 2 = high + low with so few bits in `high` that its product with an exponent is exact.
_HIGH_32, _LOW_32 = _F(0.693359375), _F(-0.00021219444005469057)
_HIGH_64, _LOW_64 = 0.693147180369123816490, 1.90821492927058770002e-10
# Added to a number, it leaves no room for a fraction: the sum's lowest bits are the rounded number.
_ROUND_32, _ROUND_64 = _F(1.5 * 2**23), 1.5 * 2**52
_LEAST_32, _MOST_32, _LEAST_64, _MOST_64 = _F(-87.0), _F(88.0), -708.0, 709.0
_C2, _C3, _C4, _C5, _C6, _C7 = (_F(1 / factorial(k)) for k in range(2, 8))
_D2, _D3, _D4, _D5, _D6, _D7, _D8, _D9, _D10, _D11, _D12, _D13 = (1 / factorial(k) for k in range(2, 14))


def _exponential_32(x: Any) -> Any:
    x = _LEAST_32 if x < _LEAST_32 else x
    x = _MOST_32 if x > _MOST_32 else x
    rounded = x * _F(_LOG2_E) + _ROUND_32
    n = rounded - _ROUND_32
    r = x - n * _HIGH_32
    r = r - n * _LOW_32
    p = _C7 * r + _C6
    p = p * r + _C5
    p = p * r + _C4
    p = p * r + _C3
    p = p * r + _C2
    p = p * r + _F(1)
    p = p * r + _F(1)
    power = (_bits_of(rounded) + np.int32(127)) << np.int32(23)
    return p * _float_from_bits(np.int32(power))


def _exponential_64(x: Any) -> Any:
    x = _LEAST_64 if x < _LEAST_64 else x
    x = _MOST_64 if x > _MOST_64 else x
    rounded = x * _LOG2_E + _ROUND_64
    n = rounded - _ROUND_64
    r = x - n * _HIGH_64
    r = r - n * _LOW_64
    p = _D13 * r + _D12
    p = p * r + _D11
    p = p * r + _D10
    p = p * r + _D9
    p = p * r + _D8
    p = p * r + _D7
    p = p * r + _D6
    p = p * r + _D5
    p = p * r + _D4
    p = p * r + _D3
    p = p * r + _D2
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _float_from_bits((_bits_of(rounded) + 1023) << 52)


overload(exponential, jit_options={"forceinline": True, "fastmath": FAST, "error_model": "numpy"})(_exponential_of)
