"""The compiled loop of one step of a whole backbone in float32: norms, convolutions, gates, recurrence and MLPs.

Weights are read where torch keeps them, through their addresses; an address of 0 is a part that is not there.

Shapes: B batch, D width, H inner width, M hidden width of the MLP, K taps, S state size, P parts of the gates.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from minrl.kernels.cpu_math import compiled, exponential, float32_at, inlined, summing
from minrl.kernels.cpu_rows import forward_row

# The parts of a block in the order of their addresses.
NORM_W, NORM_B, CONV_W, CONV_B, GATES_W, GATES_B, DOWN_W = range(7)
MLP_NORM_W, MLP_NORM_B, UP_W, UP_B, BACK_W, BACK_B, PER_BLOCK = range(7, 14)
_F = np.float32
carray: Any = numba.carray  # type: ignore[attr-defined]
_ONE, _HALF, _ROOT_HALF = _F(1), _F(0.5), _F(0.5**0.5)
# erf(x) = 1 - (a1 t + ... + a5 t^5) exp(-x^2), t = 1 / (1 + p x), x >= 0, to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
_P, _A1, _A2, _A3, _A4, _A5 = (
    _F(c) for c in (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)


@summing
def layer_norm(x: Any, weight: Any, bias: Any, epsilon: Any, y: Any, size: int) -> None:
    total, squares = _F(0), _F(0)
    for d in range(size):
        total += x[d]
    mean = total / _F(size)
    for d in range(size):
        squares += (x[d] - mean) * (x[d] - mean)
    scale = _ONE / np.sqrt(squares / _F(size) + epsilon)
    for d in range(size):
        y[d] = (x[d] - mean) * scale * weight[d] + bias[d]


@summing
def dot4(x: Any, a: Any, b: Any, c: Any, d: Any, size: int) -> tuple[Any, Any, Any, Any]:
    """x with four rows at once."""
    of_a, of_b, of_c, of_d = _F(0), _F(0), _F(0), _F(0)
    for i in range(size):
        of_a += x[i] * a[i]
        of_b += x[i] * b[i]
        of_c += x[i] * c[i]
        of_d += x[i] * d[i]
    return of_a, of_b, of_c, of_d


@summing
def dot(x: Any, a: Any, size: int) -> Any:
    total = _F(0)
    for i in range(size):
        total += x[i] * a[i]
    return total


@inlined
def linear(x: Any, weight: Any, bias: Any, y: Any, batch: int, size: int, out: int) -> None:
    """(B, size) -> (B, out); each row of the weights is read once for the whole batch."""
    whole = out - out % 4
    for o in range(0, whole, 4):
        r0, r1 = weight[o * size : (o + 1) * size], weight[(o + 1) * size : (o + 2) * size]
        r2, r3 = weight[(o + 2) * size : (o + 3) * size], weight[(o + 3) * size : (o + 4) * size]
        for b in range(batch):
            s0, s1, s2, s3 = dot4(x[b * size : (b + 1) * size], r0, r1, r2, r3, size)
            at = b * out + o
            y[at], y[at + 1], y[at + 2], y[at + 3] = s0, s1, s2, s3
    for o in range(whole, out):
        for b in range(batch):
            y[b * out + o] = dot(x[b * size : (b + 1) * size], weight[o * size : (o + 1) * size], size)
    if bias.size:
        for b in range(batch):
            add(y[b * out : (b + 1) * out], bias, out)


@inlined
def add(x: Any, y: Any, size: int) -> None:
    """x += y."""
    for d in range(size):
        x[d] += y[d]


@inlined
def gelu(x: Any, size: int) -> None:
    """In place: x times the normal distribution's share below x, as torch's default."""
    for d in range(size):
        a = abs(x[d]) * _ROOT_HALF
        t = _ONE / (_ONE + _P * a)
        tail = ((((_A5 * t + _A4) * t + _A3) * t + _A2) * t + _A1) * t * exponential(-a * a)
        x[d] *= _HALF * tail if x[d] < 0 else _ONE - _HALF * tail


@inlined
def convolve(x: Any, recent: Any, weight: Any, bias: Any, y: Any, later: Any, taps: int, width: int) -> None:
    """The last K - 1 inputs and this one, weighted; `later` is `recent` moved on."""
    for d in range(width):
        y[d] = bias[d] + weight[(taps - 1) * width + d] * x[d]
    for k in range(taps - 1):
        add_product(y, recent[k * width : (k + 1) * width], weight[k * width : (k + 1) * width], width)
    for d in range((taps - 2) * width):
        later[d] = recent[width + d]
    tail = later[(taps - 2) * width : (taps - 1) * width]
    for d in range(width):
        tail[d] = x[d]


@inlined
def add_product(y: Any, a: Any, b: Any, size: int) -> None:
    """y += a * b."""
    for d in range(size):
        y[d] += a[d] * b[d]


@inlined
def copy(x: Any, y: Any, size: int) -> None:
    for d in range(size):
        y[d] = x[d]


@inlined
def weights(address: int, size: int) -> Any:
    """The numbers that lie at `address`, none at 0."""
    return carray(float32_at(address), (size if address else 0,))


@cache
def step_kernel(parts: int, candidate: int) -> Callable[..., None]:
    """One step of a backbone of minGRU (P = 2) or minLSTM (P = 3) blocks."""

    def kernel(
        plan: Any, epsilons: Any, x_at: int, state_at: int, stride: int, y_at: int, last_at: int, batch: int,
        width: int, inner: int, hidden: int, taps: int, depth: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        x, y = carray(float32_at(x_at), (batch * width,)), carray(float32_at(y_at), (batch * width,))
        state = carray(float32_at(state_at), ((batch - 1) * stride + state_size,))
        last = carray(float32_at(last_at), (batch * state_size,))
        stream, normed, mixed = np.empty(batch * width, _F), np.empty(batch * width, _F), np.empty(batch * width, _F)
        gates, h = np.empty(batch * parts * inner, _F), np.empty(batch * inner, _F)
        middle = np.empty(batch * hidden, _F)
        copy(x, stream, batch * width)
        of_block = inner + max(taps - 1, 0) * width
        for i in range(depth):
            at = plan[i * PER_BLOCK : (i + 1) * PER_BLOCK]
            weight, bias = weights(at[NORM_W], width), weights(at[NORM_B], width)
            conv, conv_bias = weights(at[CONV_W], taps * width), weights(at[CONV_B], width)
            for b in range(batch):
                row = slice(b * width, (b + 1) * width)
                layer_norm(stream[row], weight, bias, epsilons[2 * i], normed[row], width)
                if taps:
                    of_recent = i * of_block + inner
                    recent = state[b * stride + of_recent : b * stride + (i + 1) * of_block]
                    later = last[b * state_size + of_recent : b * state_size + (i + 1) * of_block]
                    convolve(normed[row], recent, conv, conv_bias, mixed[row], later, taps, width)
                else:
                    copy(normed[row], mixed[row], width)
            gates_weight = weights(at[GATES_W], parts * inner * width)
            linear(mixed, gates_weight, weights(at[GATES_B], parts * inner), gates, batch, width, parts * inner)
            for b in range(batch):
                memory = last[b * state_size + i * of_block : b * state_size + i * of_block + inner]
                copy(state[b * stride + i * of_block : b * stride + i * of_block + inner], memory, inner)
                g = gates[b * parts * inner : (b + 1) * parts * inner]
                second, content = g[(parts - 2) * inner : (parts - 1) * inner], g[(parts - 1) * inner :]
                out = h[b * inner : (b + 1) * inner]
                forward_row(g[:inner], second, content, memory, out, parts, candidate, flip, inner)
            if at[DOWN_W]:
                linear(h, weights(at[DOWN_W], inner * width), weights(0, 0), mixed, batch, inner, width)
                add(stream, mixed, batch * width)
            else:
                add(stream, h, batch * width)
            if hidden:
                weight, bias = weights(at[MLP_NORM_W], width), weights(at[MLP_NORM_B], width)
                for b in range(batch):
                    row = slice(b * width, (b + 1) * width)
                    layer_norm(stream[row], weight, bias, epsilons[2 * i + 1], normed[row], width)
                up, up_bias = weights(at[UP_W], hidden * width), weights(at[UP_B], hidden)
                linear(normed, up, up_bias, middle, batch, width, hidden)
                gelu(middle, batch * hidden)
                back, back_bias = weights(at[BACK_W], hidden * width), weights(at[BACK_B], width)
                linear(middle, back, back_bias, mixed, batch, hidden, width)
                add(stream, mixed, batch * width)
        weight, bias = weights(plan[depth * PER_BLOCK], width), weights(plan[depth * PER_BLOCK + 1], width)
        for b in range(batch):
            row = slice(b * width, (b + 1) * width)
            layer_norm(stream[row], weight, bias, epsilons[2 * depth], y[row], width)

    return compiled(kernel)
