"""Vectorised functions of the compiled CPU kernels: exponential, logarithm, fused multiply-add.

It needs numba, so the kernels import it only when the first of them runs.
"""

import platform
from math import factorial, log
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minrl.kernels.jit.compile import FAST, inlined
from minrl.kernels.jit.memory import declare_function


def _from_bits(context: Any, bits: Any) -> Any:
    return _bitcast(bits, {types.int32: types.float32, types.int64: types.float64})


def _to_bits(context: Any, x: Any) -> Any:
    return _bitcast(x, {types.float32: types.int32, types.float64: types.int64})


def _bitcast(source: Any, targets: dict[Any, Any]) -> Any:
    target = targets[source]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(target))

    return target(source), generate


def _fused(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute a * b + c, rounded once where the processor can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        name = f"llvm.fmuladd.{'f32' if signature.return_type == types.float32 else 'f64'}"
        function = declare_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return builder.call(function, arguments)

    return a(a, a, a), generate


def _held(context: Any, x: Any) -> Any:
    """Return x, opaque to the compiler, which would else reload a constant in every iteration of a loop."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        nothing = ir.InlineAsm(ir.FunctionType(kind, [kind]), "", _IN_A_FLOAT_REGISTER, side_effect=False)
        return builder.call(nothing, arguments)

    return x(x), generate


# An operand and a result in one register, in the assembler of the processor's family.
_IN_A_FLOAT_REGISTER = "=x,0" if platform.machine().lower() in ("x86_64", "amd64") else "=w,0"
_hold: Any = intrinsic(_held)
_float_from_bits: Any = intrinsic(_from_bits)
_bits_of: Any = intrinsic(_to_bits)
_multiply_add: Any = intrinsic(_fused)


def exponential(x: Any, factor: float = 1.0, constants: Any = None) -> Any:
    """Compute exp(factor * x) as a polynomial times a power of two, so that loops over it become vector code.

    The largest relative error is 1e-7 in float32 and 3e-16 in float64 for small x. Beyond `LIMIT` on either side x
    counts as the limit; NaN stays NaN. The factor, 1, -1 or -2, costs nothing here: a minus sign before the call is
    five instructions more, as the compiler then no longer recognises the limits as minimum and maximum. With
    `constants` from `held_constants`, made before a loop, an iteration of the loop is a fifth shorter.
    """
    return np.exp(factor * x)


def _exponential_of(x: Any, factor: float = 1.0, constants: Any = None) -> Any:
    if x == types.float32:
        return _exponential_32 if constants in (None, types.none) or _omitted(constants) else _exponential_held
    return _exponential_64 if x == types.float64 else None


def _omitted(constants: Any) -> bool:
    return isinstance(constants, types.Omitted)


_F, _D = np.float32, np.float64
_LOG2_E = 1.4426950408889634
# Added to a value, it shifts out the fraction: the lowest bits of the sum are the rounded value.
_ROUND_32, _ROUND_64 = _F(1.5 * 2**23), 1.5 * 2**52
# Bound within which exp(-2 x) and (1 + exp(x)) (1 + exp(y)) are normal floats.
LIMIT = 43.0
_LEAST_32, _MOST_32 = _F(-LIMIT), _F(LIMIT)
# 2 ** f for |f| <= 1/2: the polynomial of degree 6 with the least largest relative error (2e-9), and Taylor's of 13.
_A0, _A1, _A2, _A3, _A4, _A5, _A6 = (
    _F(c)
    for c in (
        1.0000000005541743,
        0.6931472057374944,
        0.24022646890593186,
        0.055503287764664865,
        0.0096184889597379,
        0.0013399931422133867,
        0.00015345811774820727,
    )
)
_B1, _B2, _B3, _B4, _B5, _B6, _B7, _B8, _B9, _B10, _B11, _B12, _B13 = (log(2) ** k / factorial(k) for k in range(1, 14))


_CONSTANTS = (_LEAST_32, _MOST_32, _F(_LOG2_E), _ROUND_32, _A0, _A1, _A2, _A3, _A4, _A5, _A6)


@inlined
def held_constants() -> Any:
    """Return the constants of `exponential` for registers, for all iterations of a loop over float32."""
    a, b, c, d, e, f, g, h, i, j, k = _CONSTANTS
    return (
        _hold(a), _hold(b), _hold(c), _hold(d), _hold(e), _hold(f), _hold(g), _hold(h), _hold(i), _hold(j), _hold(k)
    )  # fmt: skip


@inlined
def _power(x: Any, factor: float, constants: Any) -> Any:
    least, most, log2_e, magic, a0, a1, a2, a3, a4, a5, a6 = constants
    scale = log2_e * _F(factor)
    x = least if least > x else x
    x = most if most < x else x
    rounded = x * scale + magic
    f = _multiply_add(x, scale, magic - rounded)
    p = a6 * f + a5
    p = p * f + a4
    p = p * f + a3
    p = p * f + a2
    p = p * f + a1
    p = p * f + a0
    return _float_from_bits(np.int32(_bits_of(p) + (_bits_of(rounded) << np.int32(23))))


def _exponential_32(x: Any, factor: float = 1.0, constants: Any = None) -> Any:
    return _power(x, factor, _CONSTANTS)


def _exponential_held(x: Any, factor: float = 1.0, constants: Any = None) -> Any:
    return _power(x, factor, constants)


def _exponential_64(x: Any, factor: float = 1.0, constants: Any = None) -> Any:
    scale = _LOG2_E * factor
    x = -LIMIT if x < -LIMIT else x
    x = LIMIT if x > LIMIT else x
    rounded = x * scale + _ROUND_64
    f = _multiply_add(x, scale, _ROUND_64 - rounded)
    p = _B13 * f + _B12
    p = p * f + _B11
    p = p * f + _B10
    p = p * f + _B9
    p = p * f + _B8
    p = p * f + _B7
    p = p * f + _B6
    p = p * f + _B5
    p = p * f + _B4
    p = p * f + _B3
    p = p * f + _B2
    p = p * f + _B1
    p = p * f + 1.0
    return _float_from_bits(_bits_of(p) + (_bits_of(rounded) << 52))


overload(exponential, jit_options={"forceinline": True, "fastmath": FAST, "error_model": "numpy"})(_exponential_of)


# log(1 + x) = 2 artanh(s), s = x / (2 + x) <= 1/3: the series in s^2 up to the precision of the type.
_C1, _C2, _C3, _C4, _C5, _C6 = (_F(1 / (2 * k + 1)) for k in range(1, 7))
_SERIES_64 = tuple(1 / (2 * k + 1) for k in range(15, 0, -1))


def log_one_plus(x: Any) -> Any:
    """Compute log(1 + x) for 0 <= x <= 1, with a relative error of 2e-7 in float32 and 4e-16 in float64; loops over it
    become vector code."""
    return np.log1p(x)


def _log_one_plus_of(x: Any) -> Any:
    if x == types.float32:
        return _log_one_plus_32
    return _log_one_plus_64 if x == types.float64 else None


def _log_one_plus_32(x: Any) -> Any:
    s = x / (_F(2) + x)
    q = s * s
    p = _C6 * q + _C5
    p = p * q + _C4
    p = p * q + _C3
    p = p * q + _C2
    p = p * q + _C1
    return _F(2) * (s + s * (q * p))


def _log_one_plus_64(x: Any) -> Any:
    s = x / (2.0 + x)
    q = s * s
    p = 0.0
    for factor in _SERIES_64:
        p = p * q + factor
    return 2.0 * (s + s * (q * p))


overload(log_one_plus, jit_options={"forceinline": True, "fastmath": FAST, "error_model": "numpy"})(_log_one_plus_of)
