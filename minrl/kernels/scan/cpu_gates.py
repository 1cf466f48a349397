"""Row functions of the compiled CPU scans: gates, recurrence, and their slopes at one step.

Shapes: L lanes; P parts of the gates (2: minGRU, 3: minLSTM).
"""

from typing import Any

import numpy as np

from minrl.kernels.jit.compile import inlined
from minrl.kernels.jit.math import exponential, held_constants
from minrl.kernels.kinds import HARD
from minrl.kernels.scan.gates import LEAST

_LEAST = np.float32(LEAST)
# 1/6 in two parts, so that it is one in float64 too.
_SIXTH, _THREE = np.float32(1 / 6), np.float32(3)
_REST = np.float32(1 / 6 - float(_SIXTH))
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
# exp(40) is so large that one more is lost in it, and so small that its square still fits float32.
_SHUT = np.float32(40)


@inlined
def gate_values(
    first: Any, second: Any, content: Any, parts: int, candidate: int, constants: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """Return the candidate's share of the new state, its two slopes, the candidate and its slope.

    minGRU: z with dz/dk (and 0). minLSTM: i' with di'/d forget and di'/d insert. Gate and candidate share one
    division, which takes as long as ten products.
    """
    hard, candidate = candidate >= HARD, candidate % HARD
    below = _ONE if candidate == 2 else _ONE + exponential(content, -2.0 if candidate == 1 else -1.0, constants)
    if hard:
        i, rising = hard_sigmoid(first if parts == 2 else second)
        above = _ONE if parts == 2 else _ONE + exponential(first, -1.0, constants)
        quotient = _ONE / (above * below)
        if parts == 2:
            insert, slope, other = i, rising, i
        else:
            f = below * quotient
            scale = _ONE / max(f + i, _LEAST)
            insert, keep = i * scale, f * scale
            slope, other = -insert * (f * (_ONE - f) * scale), keep * (rising * scale)
    elif parts == 2:
        shut = exponential(first, -1.0, constants)
        above = _ONE + shut
        quotient = _ONE / (above * below)
        insert = below * quotient
        slope, other = insert * (shut * insert), insert
    else:
        # f' / i' = (1 + exp(-i)) / (1 + exp(-f)). Where both gates are closed, only the exponentials' ratio counts.
        excess = max(-min(first, second) - _SHUT, _ZERO)
        f, i = exponential(first + excess, -1.0, constants), exponential(second + excess, -1.0, constants)
        above = (_ONE + f) + (_ONE + i)
        quotient = _ONE / (above * below)
        scale = below * quotient
        insert, keep = (_ONE + f) * scale, (_ONE + i) * scale
        slope, other = -keep * (f * scale), insert * (i * scale)
    g, rise = candidate_value(content, above * quotient, candidate)
    return insert, slope, other, g, rise


@inlined
def hard_sigmoid(x: Any) -> tuple[Any, Any]:
    """Return clip(x / 6 + 1/2, 0, 1) and its slope."""
    above = x + _THREE
    inside = above * _SIXTH + above * _REST
    share = _ZERO if x <= -_THREE else _ONE if x >= _THREE else inside
    # The difference, which is 0, has the precision of x.
    return share, (((share - share) + _SIXTH) + _REST if abs(x) <= _THREE else _ZERO)


@inlined
def candidate_value(v: Any, share: Any, candidate: int) -> tuple[Any, Any]:
    """Return the candidate g(v) and its slope, from `share`, the sigmoid of v (or of 2v for tanh)."""
    if candidate == 0:
        return (v + _HALF if v >= _ZERO else share), (_ONE if v >= _ZERO else share * (_ONE - share))
    if candidate == 1:
        g = _TWO * share - _ONE
        return g, _ONE - g * g
    return v, v * _ZERO + _ONE


@inlined
def forward_row(
    first: Any, second: Any, content: Any, memory: Any, h: Any, parts: int, candidate: int, flip: Any, lanes: int
) -> None:
    constants = held_constants()
    for d in range(lanes):
        insert, _, _, g, _ = gate_values(first[d], second[d], content[d], parts, candidate, constants)
        # As an increment: 1 - z near 1 has fewer digits than z, and a slowly decaying state accumulates the error.
        new = memory[d] + insert * (g - (_ONE + flip) * memory[d])
        memory[d] = new
        h[d] = new


@inlined
def slopes_row(
    first: Any, second: Any, content: Any, before: Any, loss: Any, dfirst: Any, dsecond: Any, dcontent: Any,
    parts: int, candidate: int, flip: Any, lanes: int,
) -> None:  # fmt: skip
    """Compute the share of the state that a step drops, and the slopes of h_t by each part of the gates."""
    constants = held_constants()
    for d in range(lanes):
        insert, slope, other, g, rise = gate_values(first[d], second[d], content[d], parts, candidate, constants)
        of_insert = g - (_ONE + flip) * before[d]
        loss[d] = (_ONE + flip) * insert
        dcontent[d] = insert * rise
        dfirst[d] = of_insert * slope
        if parts == 3:
            dsecond[d] = of_insert * other


@inlined
def gradients_row(
    dh: Any, loss: Any, later: Any, dfirst: Any, dsecond: Any, dcontent: Any, parts: int, lanes: int
) -> None:
    """Compute the gradients to the gates: the total gradient to h_t times the results of `slopes_row`."""
    for d in range(lanes):
        total = dh[d] + later[d]
        later[d] = total - total * loss[d]
        dfirst[d] *= total
        dcontent[d] *= total
        if parts == 3:
            dsecond[d] *= total


@inlined
def linear_row(decay: Any, drive: Any, memory: Any, h: Any, lanes: int) -> None:
    for d in range(lanes):
        new = decay[d] * memory[d] + drive[d]
        memory[d] = new
        h[d] = new


@inlined
def linear_gradients_row(dh: Any, decay: Any, later: Any, ddecay: Any, ddrive: Any, lanes: int) -> None:
    for d in range(lanes):
        total = dh[d] + later[d]
        later[d] = total * decay[d]
        ddrive[d] = total
        ddecay[d] *= total
