"""The compiled loop of one step of a whole backbone in float32: norms, convolutions, gates, recurrence and MLPs.

Weights are read where torch keeps them, through their addresses; an address of 0 is a part that is not there.

Shapes: B batch, D width, H inner width, M hidden width of the MLP, K taps, S state size, P parts of the gates.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from minrl.kernels.backbone.cells import cell_step, room_of_step
from minrl.kernels.backbone.gemv import aligned, linear
from minrl.kernels.backbone.norm_gelu import ERF
from minrl.kernels.jit.calls import caller_of_blocks
from minrl.kernels.jit.compile import addressed, allocating, compiled, inlined, summing
from minrl.kernels.jit.math import exponential
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import add, add_product, copy_row

# The parts of a block in the order of their addresses.
NORM_W, NORM_B, CONV_W, CONV_B, CELL_W = range(5)
DOWN_W, MLP_NORM_W, MLP_NORM_B, UP_W, UP_B, BACK_W, BACK_B, PER_BLOCK = range(8, 16)
_F = np.float32
_ONE, _HALF, _ROOT_HALF = _F(1), _F(0.5), _F(0.5**0.5)
_P, _A1, _A2, _A3, _A4, _A5 = ERF

through_blocks: Any = caller_of_blocks()


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


@inlined
def gelu(x: Any, size: int) -> None:
    """Compute GELU(x) in place: x times the normal distribution's share below x, torch's default."""
    for d in range(size):
        a = abs(x[d]) * _ROOT_HALF
        t = _ONE / (_ONE + _P * a)
        tail = ((((_A5 * t + _A4) * t + _A3) * t + _A2) * t + _A1) * t * exponential(-a * a)
        x[d] *= _HALF * tail if x[d] < 0 else _ONE - _HALF * tail


@inlined
def convolve(x: Any, recent: Any, weight: Any, bias: Any, y: Any, taps: int, width: int) -> None:
    """Compute the convolution of the last K - 1 inputs and this one; advance `recent` by it."""
    for d in range(width):
        y[d] = bias[d] + weight[(taps - 1) * width + d] * x[d]
    for k in range(taps - 1):
        add_product(y, recent[k * width : (k + 1) * width], weight[k * width : (k + 1) * width], width)
    for k in range(taps - 2):
        copy_row(recent[(k + 1) * width : (k + 2) * width], recent[k * width : (k + 1) * width], width)
    copy_row(x, recent[(taps - 2) * width : (taps - 1) * width], width)


@allocating
def numbers(address: int, size: int) -> Any:
    """Read `size` float32 elements at `address`, without a copy."""
    return vector(address, size, _F(0))


@allocating
def weights(address: int, size: int) -> Any:
    """Read `size` float32 elements at `address`, without a copy; none at address 0."""
    return numbers(address, size if address else 0)


@cache
def blocks_address() -> int:
    """Return the address of the step of a stack of blocks, which `through_blocks` calls.

    Compiled by itself, once for the steps of backbones, agents and policies: a first run of PPO compiles for 43 CPU s
    instead of 72 on a busy machine.
    """
    one, floats, size = types.float32, types.float32[::1], types.int64
    return addressed(_blocks, types.void(types.int64[::1], *[floats] * 3, size, size, floats, *[size] * 9, one))


def _blocks(
    plan: Any, epsilons: Any, stream: Any, state: Any, first: int, stride: int, y: Any, batch: int,
    width: int, inner: int, hidden: int, taps: int, depth: int, cell: int, parts: int, memory: int, flip: Any,
) -> None:  # fmt: skip
    """Run the blocks from `stream` (B, D), which is overwritten, to `y` (B, D).

    The rows of `state`, `stride` apart from `first` on, are advanced. `cell` is an address of
    `minrl.kernels.backbone.cells`, `memory` the elements of its state.
    """
    normed, mixed = aligned(batch * width), aligned(batch * width)
    room, h, middle = aligned(room_of_step(batch, parts, inner)), aligned(batch * inner), aligned(batch * hidden)
    of_block = memory + max(taps - 1, 0) * width
    for i in range(depth):
        at = plan[i * PER_BLOCK : (i + 1) * PER_BLOCK]
        weight, bias = weights(at[NORM_W], width), weights(at[NORM_B], width)
        conv, conv_bias = weights(at[CONV_W], taps * width), weights(at[CONV_B], width)
        for b in range(batch):
            row = slice(b * width, (b + 1) * width)
            layer_norm(stream[row], weight, bias, epsilons[2 * i], normed[row], width)
            if taps:
                of_row = first + b * stride + i * of_block
                recent = state[of_row + memory : of_row + of_block]
                convolve(normed[row], recent, conv, conv_bias, mixed[row], taps, width)
            else:
                copy_row(normed[row], mixed[row], width)
        cell_step(
            cell, at[CELL_W:DOWN_W], mixed, state, first + i * of_block, stride, h, room, batch, width, inner, parts,
            flip,
        )  # fmt: skip
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


@cache
def step_kernel() -> Callable[..., None]:
    """Build the kernel of one step of a backbone."""

    def kernel(
        plan: Any, epsilons: Any, x_at: int, state_at: int, stride: int, y_at: int, last_at: int, batch: int,
        width: int, inner: int, hidden: int, taps: int, depth: int, cell: int, parts: int, memory: int, blocks: int,
        state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        x, y = numbers(x_at, batch * width), numbers(y_at, batch * width)
        state, last = numbers(state_at, (batch - 1) * stride + state_size), numbers(last_at, batch * state_size)
        for b in range(batch):
            copy_row(
                state[b * stride : b * stride + state_size], last[b * state_size : (b + 1) * state_size], state_size
            )
        stream = np.empty(batch * width, _F)
        copy_row(x, stream, batch * width)
        through_blocks(
            blocks, plan, epsilons, stream, last, 0, state_size, y, batch,
            width, inner, hidden, taps, depth, cell, parts, memory, flip,
        )  # fmt: skip

    return compiled(kernel)
