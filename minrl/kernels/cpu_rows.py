"""What the compiled CPU kernels do at one step to one row of lanes: gates, recurrence, and their slopes.

Shapes: L lanes; P parts of the gates (2: minGRU, 3: minLSTM).
"""

from typing import Any

import numpy as np

from minrl.kernels.cpu_math import exponential, inlined, prefetch_read, prefetch_write

CANDIDATES = {"positive": 0, "tanh": 1, "linear": 2}
# Memory is asked for in pieces of so many numbers (of float32).
_CACHE_LINE = 16
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
# exp(40) is so large that one more is lost in it, and so small that its square still fits float32.
_SHUT = np.float32(40)


@inlined
def ask_to_read(x: Any, at: int, lanes: int) -> None:
    """Have a row of lanes brought to the cache, all its lines at once."""
    for line in range(0, lanes, _CACHE_LINE):
        prefetch_read(x, at + line)


@inlined
def ask_to_write(x: Any, at: int, lanes: int) -> None:
    """The same for a row that will be written."""
    for line in range(0, lanes, _CACHE_LINE):
        prefetch_write(x, at + line)


@inlined
def shares(first: Any, second: Any, parts: int) -> tuple[Any, Any, Any]:
    """The share of the candidate that goes in, and its slopes.

    minGRU: z with dz/dk (and nothing). minLSTM: i' with di'/d forget and di'/d insert.
    """
    if parts == 2:
        shut = exponential(-first)
        insert = _ONE / (_ONE + shut)
        return insert, insert * (shut * insert), insert
    # f' / i' = (1 + exp(-i)) / (1 + exp(-f)). Where both gates are shut, the exponentials count by their ratio.
    excess = max(-min(first, second) - _SHUT, _ZERO)
    f, i = exponential(-first - excess), exponential(-second - excess)
    scale = _ONE / ((_ONE + f) + (_ONE + i))
    insert, keep = (_ONE + f) * scale, (_ONE + i) * scale
    return insert, -keep * (f * scale), insert * (i * scale)


@inlined
def content_of(v: Any, candidate: int) -> tuple[Any, Any]:
    """The candidate g(v) and its slope."""
    if candidate == 0:
        s = _ONE / (_ONE + exponential(-v))
        return (v + _HALF if v >= _ZERO else s), (_ONE if v >= _ZERO else s * (_ONE - s))
    if candidate == 1:
        s = _TWO / (_ONE + exponential(-_TWO * v)) - _ONE
        return s, _ONE - s * s
    return v, v * _ZERO + _ONE


@inlined
def forward_row(
    first: Any, second: Any, content: Any, memory: Any, h: Any, parts: int, candidate: int, flip: Any, lanes: int
) -> None:
    for d in range(lanes):
        insert, _, _ = shares(first[d], second[d], parts)
        g, _ = content_of(content[d], candidate)
        # As a change of the memory: 1 - z near 1 has fewer digits than z, and a long memory adds up what is lost.
        new = memory[d] + insert * (g - (_ONE + flip) * memory[d])
        memory[d] = new
        h[d] = new


@inlined
def slopes_row(
    first: Any, second: Any, content: Any, before: Any, loss: Any, dfirst: Any, dsecond: Any, dcontent: Any,
    parts: int, candidate: int, flip: Any, lanes: int,
) -> None:  # fmt: skip
    """Of a step: the share of the memory that is lost, and the slopes of h_t by each part of the gates."""
    for d in range(lanes):
        insert, slope, other = shares(first[d], second[d], parts)
        g, rise = content_of(content[d], candidate)
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
    """The gradient to h_t with all that follows from it, times what `slopes_row` left."""
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


@inlined
def copy_row(source: Any, target: Any, lanes: int) -> None:
    for d in range(lanes):
        target[d] = source[d]
