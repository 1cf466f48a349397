"""Row functions of the compiled CPU kernels of a block: layer norm, convolution taps, GELU, and their gradients.

Shapes: D width; K taps.
"""

from math import erf, exp, pi, sqrt
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from minrl.kernels.jit.compile import FAST, inlined, summing
from minrl.kernels.jit.math import exponential, held_constants

_F = np.float32
_ZERO, _HALF, _ONE = _F(0), _F(0.5), _F(1)
_ROOT_HALF, _PEAK = 0.5**0.5, 1 / sqrt(2 * pi)
_ROOT_HALF_32, _PEAK_32 = _F(_ROOT_HALF), _F(_PEAK)
# erf(x) = 1 - (a1 t + ... + a5 t^5) exp(-x^2), t = 1 / (1 + p x), x >= 0, to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
ERF = tuple(_F(c) for c in (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))
_P, _A1, _A2, _A3, _A4, _A5 = ERF


@summing
def normalise(x: Any, weight: Any, bias: Any, epsilon: Any, y: Any, size: int) -> tuple[Any, Any]:
    """Compute the layer norm of a row, and what was subtracted from it and multiplied with it."""
    total, squares = _ZERO, _ZERO
    for d in range(size):
        total += x[d]
    mean = total / _F(size)
    for d in range(size):
        squares += (x[d] - mean) * (x[d] - mean)
    scale = _ONE / np.sqrt(squares / _F(size) + epsilon)
    scaled(x, mean, scale, weight, bias, y, size)
    return mean, scale


@inlined
def scaled(x: Any, mean: Any, scale: Any, weight: Any, bias: Any, y: Any, size: int) -> None:
    for d in range(size):
        y[d] = (x[d] - mean) * scale * weight[d] + bias[d]


@summing
def normalise_gradients(
    x: Any, mean: Any, scale: Any, weight: Any, dy: Any, dx: Any, dweight: Any, dbias: Any, size: int
) -> None:
    """Compute a layer norm's input gradient from that of its output, and add to those of its weights."""
    straight, along = _ZERO, _ZERO
    for d in range(size):
        straight += dy[d] * weight[d]
        along += dy[d] * weight[d] * (x[d] - mean)
    straight, along = straight / _F(size), along / _F(size) * (scale * scale)
    for d in range(size):
        dx[d] = scale * (dy[d] * weight[d] - straight - (x[d] - mean) * along)
        dweight[d] += dy[d] * ((x[d] - mean) * scale)
        dbias[d] += dy[d]


@inlined
def tap_gradients(weight: Any, x: Any, dy: Any, dx: Any, dweight: Any, size: int) -> None:
    """Compute the backward pass of y += weight * x."""
    for d in range(size):
        dx[d] += weight[d] * dy[d]
        dweight[d] += x[d] * dy[d]


@inlined
def gelu(x: Any, y: Any, size: int) -> None:
    constants = held_constants()
    for d in range(size):
        share, _ = share_below(x[d], constants)
        y[d] = x[d] * share


@inlined
def gelu_gradients(x: Any, y: Any, slope: Any, dbias: Any, size: int) -> None:
    """Compute GELU(x), replace the gradient to it by that to x, and add this to the bias's."""
    constants = held_constants()
    for d in range(size):
        share, density = share_below(x[d], constants)
        y[d] = x[d] * share
        dx = slope[d] * (share + x[d] * density)
        slope[d] = dx
        dbias[d] += dx


def share_below(x: Any, constants: Any) -> tuple[Any, Any]:
    """Return the share of the normal distribution below x, to 1e-7 in float32, and its density at x."""
    return (1 + erf(x * _ROOT_HALF)) / 2, _PEAK * exp(-x * x / 2)


def _share_below_of(x: Any, constants: Any) -> Any:
    if x == types.float32:
        return _share_below_32
    return _share_below_64 if x == types.float64 else None


def _share_below_32(x: Any, constants: Any) -> Any:
    a = abs(x) * _ROOT_HALF_32
    t = _ONE / (_ONE + _P * a)
    bell = exponential(a * a, -1.0, constants)
    tail = _HALF * (((((_A5 * t + _A4) * t + _A3) * t + _A2) * t + _A1) * t * bell)
    return tail if x < _ZERO else _ONE - tail, _PEAK_32 * bell


def _share_below_64(x: Any, constants: Any) -> Any:
    return 0.5 * (1.0 + erf(x * _ROOT_HALF)), _PEAK * exp(-0.5 * x * x)


overload(share_below, jit_options={"forceinline": True, "fastmath": FAST, "error_model": "numpy"})(_share_below_of)
