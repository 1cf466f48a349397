"""The compiled loop of one step of a whole agent in float32: its inputs, backbone, actions and next state.

Shapes: B batch, O observation, A action, D width, S state size, C columns before the previous action in the state.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.backbone.gemv import aligned, linear
from minrl.kernels.backbone.step_loops import PER_BLOCK, numbers, through_blocks, weights
from minrl.kernels.jit.compile import allocating, compiled, inlined
from minrl.kernels.jit.math import exponential
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import add, copy_row

# Parts of an agent beside its backbone, in the order of their addresses, which follow the backbone's.
MEAN, REST, STD, OBSERVE_W, OBSERVE_B, RETURN_W, RETURN_B, TIME_W, ACTION_W, ACTION_B, HEAD_W, HEAD_B = range(12)
# The kinds of the pieces of a head: linear within a range, tanh onto a range, one-hot, yes or no, middles of bins.
KINDS = {"tanh": 0, "choice": 1, "binary": 2, "bins": 3, "line": 4}
_TANH, _CHOICE, _BINARY, _LINE = KINDS["tanh"], KINDS["choice"], KINDS["binary"], KINDS["line"]
PER_PIECE = 10
# Target return, earned return and time step, before the previous action in the state.
OF_RETURNS = 3
_F = np.float32
_ZERO, _HALF, _ONE, _TWO = _F(0), _F(0.5), _F(1), _F(2)


@allocating
def flags(address: int, size: int) -> Any:
    """Read `size` bools at an address as bytes, by way of float32 elements."""
    return vector(address, (size + 3) // 4, _ZERO).view(np.uint8)


@inlined
def normalize(x: Any, mean: Any, rest: Any, std: Any, y: Any, size: int) -> None:
    for d in range(size):
        y[d] = ((x[d] - mean[d]) - rest[d]) / std[d]


@inlined
def add_scaled(y: Any, factor: Any, weight: Any, size: int) -> None:
    """Compute y += factor * weight."""
    for d in range(size):
        y[d] += factor * weight[d]


@inlined
def likeliest(raw: Any, size: int) -> int:
    """Return the first of the largest; NaN counts as the largest, as torch has it."""
    best = 0
    for i in range(1, size):
        if raw[i] > raw[best] or (np.isnan(raw[i]) and not np.isnan(raw[best])):
            best = i
    return best


@inlined
def onto_range(raw: Any, center: Any, reach: Any, action: Any, size: int) -> None:
    for d in range(size):
        tanh = _TWO / (_ONE + exponential(-_TWO * raw[d])) - _ONE
        action[d] = center[d] + reach[d] * tanh


@inlined
def inside_range(raw: Any, center: Any, reach: Any, low: Any, high: Any, action: Any, size: int) -> None:
    for d in range(size):
        value = center[d] + reach[d] * raw[d]
        action[d] = low[d] if value < low[d] else high[d] if value > high[d] else value


@inlined
def decide(raw: Any, pieces: Any, action: Any, remembered: Any) -> None:
    """Decode an action from a row of the head's linear map, piece by piece, and what the state keeps of it."""
    of_raw, of_action = 0, 0
    for i in range(len(pieces) // PER_PIECE):
        piece = pieces[i * PER_PIECE : (i + 1) * PER_PIECE]
        kind, whole, inputs, outputs = piece[0], piece[1], piece[2], piece[3]
        first, second = weights(piece[4], outputs), weights(piece[5], outputs)
        part, chosen = raw[of_raw : of_raw + inputs], action[of_action : of_action + outputs]
        if kind == _TANH:
            onto_range(part, first, second, chosen, outputs)
        elif kind == _LINE:
            inside_range(part, first, second, weights(piece[6], outputs), weights(piece[7], outputs), chosen, outputs)
        elif kind == _CHOICE:
            chosen[:] = _ZERO
            chosen[likeliest(part, inputs)] = _ONE
        elif kind == _BINARY:
            for d in range(outputs):
                chosen[d] = _ONE if part[d] > _ZERO else _ZERO
        else:
            bins = inputs // outputs
            for d in range(outputs):
                chosen[d] = first[d] + second[d] * (_F(likeliest(part[d * bins : (d + 1) * bins], bins)) + _HALF)
        if whole:
            for d in range(outputs):
                chosen[d] = np.rint(chosen[d])
        kept = remembered[of_action : of_action + outputs]
        if piece[8]:
            mean, inverse = weights(piece[8], outputs), weights(piece[9], outputs)
            for d in range(outputs):
                kept[d] = (chosen[d] - mean[d]) * inverse[d]
        else:
            copy_row(chosen, kept, outputs)
        of_raw += inputs
        of_action += outputs


@cache
def act_kernel() -> Callable[..., None]:
    """Build the kernel of one step of an agent around a backbone.

    With `decides` 0 it writes the head's input in place of the action, and leaves the state's action columns alone.
    """

    def kernel(
        plan: Any, reals: Any, sizes: Any, pieces: Any, observation_at: int, observation_stride: int, reward_at: int,
        start_at: int, state_at: int, stride: int, out_at: int, last_at: int, batch: int, decides: int,
    ) -> None:  # fmt: skip
        width, inner, hidden, taps, depth = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
        cell, parts, memory, blocks = sizes[5], sizes[6], sizes[7], sizes[8]
        columns, observed, acted, outputs, longest, state_size = (
            sizes[9], sizes[10], sizes[11], sizes[12], sizes[13], sizes[14],
        )  # fmt: skip
        flip, scale, most = reals[0], reals[1], reals[2]
        at = plan[depth * PER_BLOCK + 2 :]
        observation = numbers(observation_at, (batch - 1) * observation_stride + observed)
        reward, start = numbers(reward_at, batch), flags(start_at, batch)
        state, last = numbers(state_at, (batch - 1) * stride + state_size), numbers(last_at, batch * state_size)
        mean, rest, std = weights(at[MEAN], observed), weights(at[REST], observed), weights(at[STD], observed)
        normed, stream = aligned(batch * observed), aligned(batch * width)
        for b in range(batch):
            seen = observation[b * observation_stride : b * observation_stride + observed]
            normalize(seen, mean, rest, std, normed[b * observed : (b + 1) * observed], observed)
        observe, bias = weights(at[OBSERVE_W], width * observed), weights(at[OBSERVE_B], width)
        linear(normed, observe, bias, stream, batch, observed, width)
        of_return, bias = weights(at[RETURN_W], width), weights(at[RETURN_B], width)
        of_time = weights(at[TIME_W], longest * width)
        for b in range(batch):
            entered, row = state[b * stride : b * stride + state_size], last[b * state_size : (b + 1) * state_size]
            token = stream[b * width : (b + 1) * width]
            if start[b]:
                row[:] = _ZERO
            else:
                copy_row(entered, row, state_size)
            if columns:
                target, time = entered[0], row[2]
                earned = _ZERO if start[b] else row[1] + reward[b]
                asked = most if target > most else target
                add_scaled(token, (asked - earned) / scale, of_return, width)
                add(token, bias, width)
                if at[TIME_W]:
                    moment = max(0, min(int(time), longest - 1))
                    add(token, of_time[moment * width : (moment + 1) * width], width)
                row[0], row[1], row[2] = target, earned, time + _ONE
        if at[ACTION_W]:
            previous, token = aligned(batch * acted), aligned(batch * width)
            for b in range(batch):
                of_previous = b * state_size + columns
                copy_row(last[of_previous : of_previous + acted], previous[b * acted : (b + 1) * acted], acted)
            embed, bias = weights(at[ACTION_W], width * acted), weights(at[ACTION_B], width)
            linear(previous, embed, bias, token, batch, acted, width)
            add(stream, token, batch * width)
        out = numbers(out_at, batch * (acted if decides else width))
        features = aligned(batch * width) if decides else out
        through_blocks(
            blocks, plan, reals[3:], stream, last, columns + acted, state_size, features, batch,
            width, inner, hidden, taps, depth, cell, parts, memory, flip,
        )  # fmt: skip
        if decides:
            raw = aligned(batch * outputs)
            head, bias = weights(at[HEAD_W], outputs * width), weights(at[HEAD_B], outputs)
            linear(features, head, bias, raw, batch, width, outputs)
            for b in range(batch):
                action = out[b * acted : (b + 1) * acted]
                remembered = last[b * state_size + columns : b * state_size + columns + acted]
                decide(raw[b * outputs : (b + 1) * outputs], pieces, action, remembered)

    return compiled(kernel)
