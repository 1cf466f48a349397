"""Compiled loops of an mLSTM's output on a CPU, forward and backward.

Tensors are read and written where torch keeps them, through their addresses. One call does all steps of the batch
rows `first` to `end`.

Shapes: B batch, T time, H heads of E features, D = H * E.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import compiled, inlined, summing
from minrl.kernels.jit.math import exponential, held_constants
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import add
from minrl.kernels.jit.threads import ROWS_PER_ITEM

_F = np.float32
_ZERO, _HALF, _ONE = _F(0), _F(0.5), _F(1)


@summing
def moments(x: Any, size: int) -> tuple[Any, Any]:
    """Return mean and variance of a row."""
    total, squares = x[0] * _ZERO, x[0] * _ZERO
    for d in range(size):
        total += x[d]
    mean = total / _F(size)
    for d in range(size):
        squares += (x[d] - mean) * (x[d] - mean)
    return mean, squares / _F(size)


@inlined
def forward_row(
    y: Any, mean: Any, factor: Any, mixed: Any, gate: Any, scale: Any, skip: Any, out: Any, size: int
) -> None:
    constants = held_constants()
    for d in range(size):
        inner = (y[d] - mean) * factor * (_ONE + scale[d]) + skip[d] * mixed[d]
        out[d] = inner * (gate[d] / (_ONE + exponential(gate[d], -1.0, constants)))


@summing
def gradients_row(
    y: Any, mean: Any, factor: Any, mixed: Any, gate: Any, scale: Any, skip: Any, dout: Any,
    dnorm: Any, dmixed: Any, dgate: Any, dscale: Any, dskip: Any, size: int,
) -> tuple[Any, Any]:  # fmt: skip
    """Compute the gradients to all but y, with that to its norm; return its sum, and that times the norm."""
    constants = held_constants()
    straight, along = mean * _ZERO, mean * _ZERO
    for d in range(size):
        show = _ONE / (_ONE + exponential(gate[d], -1.0, constants))
        norm, of_inner = (y[d] - mean) * factor, dout[d] * (gate[d] * show)
        inner = norm * (_ONE + scale[d]) + skip[d] * mixed[d]
        dgate[d] = dout[d] * inner * (show * (_ONE + gate[d] * (_ONE - show)))
        dmixed[d] = of_inner * skip[d]
        dskip[d] += of_inner * mixed[d]
        dscale[d] += of_inner * norm
        found = of_inner * (_ONE + scale[d])
        dnorm[d] = found
        straight += found
        along += found * norm
    return straight, along


@summing
def content_gradients(y: Any, mean: Any, factor: Any, dnorm: Any, straight: Any, along: Any, dy: Any, size: int) -> Any:
    """Compute the gradient to y from that to its norm; return its product with y."""
    straight, along, product = straight / _F(size), along / _F(size), mean * _ZERO
    for d in range(size):
        found = factor * (dnorm[d] - straight - (y[d] - mean) * factor * along)
        dy[d] = found
        product += found * y[d]
    return product


@inlined
def scales(total: Any, unit: Any, variance: Any, normaliser_epsilon: Any, norm_epsilon: Any) -> tuple[Any, Any, Any]:
    """Return 1 in units of exp(`unit`), one over the normaliser, and what y minus its mean is multiplied with."""
    least = np.exp(-unit)
    inverse = _ONE / (max(abs(total), least) + normaliser_epsilon)
    return least, inverse, inverse / np.sqrt(variance * inverse * inverse + norm_epsilon)


@cache
def forward() -> Callable[..., None]:
    """Build the kernel of y (B, T, H, E + 1), unit (B, T, H), mixed, gate (B, T, D), scale, skip -> out (B, T, D)."""

    def kernel(
        y_at: int, unit_at: int, mixed_at: int, gate_at: int, scale_at: int, skip_at: int, out_at: int,
        first: int, end: int, batch: int, steps: int, heads: int, size: int, normaliser_epsilon: Any,
        norm_epsilon: Any, like: Any,
    ) -> None:  # fmt: skip
        items, width = batch * steps * heads, heads * size
        y, unit = vector(y_at, items * (size + 1), like), vector(unit_at, items, like)
        mixed, gate = vector(mixed_at, items * size, like), vector(gate_at, items * size, like)
        scale, skip = vector(scale_at, width, like), vector(skip_at, width, like)
        out = vector(out_at, items * size, like)
        for n in range(first * steps, end * steps):
            for h in range(heads):
                item = n * heads + h
                row, at, here = y[item * (size + 1) : (item + 1) * (size + 1)], item * size, h * size
                mean, variance = moments(row, size)
                _, _, factor = scales(row[size], unit[item], variance, normaliser_epsilon, norm_epsilon)
                forward_row(
                    row, mean, factor, mixed[at : at + size], gate[at : at + size], scale[here : here + size],
                    skip[here : here + size], out[at : at + size], size,
                )  # fmt: skip

    return compiled(kernel)


@cache
def backward() -> Callable[..., None]:
    """Build the kernel from dout (B, T, D) to the gradients to y, mixed and gate.

    Those of each batch row to scale and skip are added to `sums` (B, 2, D).
    """

    def kernel(
        y_at: int, unit_at: int, mixed_at: int, gate_at: int, scale_at: int, skip_at: int, dout_at: int, dy_at: int,
        dmixed_at: int, dgate_at: int, sums_at: int,
        first: int, end: int, batch: int, steps: int, heads: int, size: int, normaliser_epsilon: Any,
        norm_epsilon: Any, like: Any,
    ) -> None:  # fmt: skip
        items, width = batch * steps * heads, heads * size
        y, dy = vector(y_at, items * (size + 1), like), vector(dy_at, items * (size + 1), like)
        unit, sums = vector(unit_at, items, like), vector(sums_at, batch * 2 * width, like)
        mixed, gate = vector(mixed_at, items * size, like), vector(gate_at, items * size, like)
        scale, skip = vector(scale_at, width, like), vector(skip_at, width, like)
        dout, dmixed = vector(dout_at, items * size, like), vector(dmixed_at, items * size, like)
        dgate = vector(dgate_at, items * size, like)
        partial, dnorm = np.zeros(2 * width, y.dtype), np.empty(size, y.dtype)
        for b in range(first, end):
            for t in range(steps):
                for h in range(heads):
                    item = (b * steps + t) * heads + h
                    row, found = y[item * (size + 1) : (item + 1) * (size + 1)], dy[item * (size + 1) :]
                    at, here = item * size, h * size
                    mean, variance = moments(row, size)
                    least, inverse, factor = scales(row[size], unit[item], variance, normaliser_epsilon, norm_epsilon)
                    straight, along = gradients_row(
                        row, mean, factor, mixed[at : at + size], gate[at : at + size], scale[here : here + size],
                        skip[here : here + size], dout[at : at + size], dnorm, dmixed[at : at + size],
                        dgate[at : at + size], partial[here : here + size],
                        partial[width + here : width + here + size], size,
                    )  # fmt: skip
                    product = content_gradients(row, mean, factor, dnorm, straight, along, found, size)
                    # The norm's own epsilon makes it depend on the normaliser.
                    total = row[size]
                    share = _ONE if abs(total) > least else _HALF if abs(total) == least else _ZERO
                    found[size] = -inverse * product * (share if total > _ZERO else -share)
                # Long sums of float32 lose digits.
                if t % ROWS_PER_ITEM == ROWS_PER_ITEM - 1 or t == steps - 1:
                    add(sums[b * 2 * width : (b + 1) * 2 * width], partial, 2 * width)
                    partial[:] = _ZERO

    return compiled(kernel)
