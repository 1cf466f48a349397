"""Forward and backward pass of one cell inside the compiled update, from addresses; the update calls both by address.

A cell is two functions, compiled by themselves: the update is compiled once for all of them.

Shapes: B segments, T time, N = B * T rows, D width of the input, H inner width, P parts of the gates, S state size of
the whole policy.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from minrl.kernels.backbone.loops import scan_items, scan_items_backward
from minrl.kernels.gru import cpu_loops as gru
from minrl.kernels.jit.calls import caller_of_cell
from minrl.kernels.jit.compile import addressed, allocating, inlined
from minrl.kernels.jit.memory import matrix, vector
from minrl.kernels.jit.rows import add_to, copy_row
from minrl.kernels.kinds import GRU, LSTM, MINGRU, MINLSTM, CellKind
from minrl.kernels.lstm import cpu_loops as lstm
from minrl.kernels.ppo.linear import bias_gradient, input_gradient, linear, transpose, weight_gradient
from minrl.kernels.scan.cpu_loops import LANES

# The weights of a cell in the order of their addresses, and what it keeps: gates, what its kind keeps beside, and the
# state that enters, without those of other cells.
INPUT, INPUT_BIAS, RECURRENT, RECURRENT_BIAS, PER_CELL = range(5)
OF_GATES, KEPT, ENTERING, SAVED_OF_CELL = range(4)
# Buffers that all cells share, the first of those of `minrl.kernels.ppo.backbone`: the gradients to the input's part of
# the gates and to the state's, h_{t-1} after resets, a transposed weight, sums of a row, a state of zeros and two that
# are never read; then the addresses of matmul, forward and backward pass.
DGATES, DPRE, BEFORE, TURNED, PARTIAL, NO_STATE, LAST, DSTATE, MATMUL, FORWARD, BACKWARD, ROOM_OF_CELL = range(12)
# Segments that run together: each weight is read once for all of them.
_ROWS, _BYTE = 64, np.uint8(0)

run: Any = caller_of_cell()
_words: Any = types.int64[::1]


@cache
def addresses(kind: CellKind, dtype: Any) -> tuple[int, int]:
    """Return the addresses of a cell's forward and backward pass in float32 or float64.

    Both take (weights, gradients, saved, room, x, resets, state, h, first, second, B, T, D, H, S, sign). Forward: x (N,
    D) and the state (B, S) -> h (N, H) and, where `second` is not 0, `second` = `first` + h. Backward: `first`, the
    gradient to h -> those to the weights and, where it is not 0, `second`, that to x; sums over rows are added to what
    is there or take its place.
    """
    real = types.float32 if np.dtype(dtype) == np.float32 else types.float64
    signature = types.void(*[_words] * 4, *[types.int64] * 11, real)
    forward, backward = _PASSES[kind.cell](kind)
    return addressed(forward, signature), addressed(backward, signature)


Passes = tuple[Callable[..., None], Callable[..., None]]


def _gated(kind: CellKind) -> Passes:
    parts, candidate = kind.parts, kind.candidate

    def forward(
        w: Any, g: Any, s: Any, room: Any, x: int, resets: int, state: int, h: int, to: int, out: int, batch: int,
        steps: int, inputs: int, inner: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        rows, like = batch * steps, flip - flip
        linear(room[MATMUL], s[OF_GATES], x, w[INPUT], w[INPUT_BIAS], room[TURNED], rows, inputs, parts * inner, like)
        scan_items(
            0, batch * ((inner + LANES - 1) // LANES), s[OF_GATES], state, resets, h, room[LAST], to, out,
            batch, steps, inner, state_size, flip, parts, candidate,
        )  # fmt: skip

    def backward(
        w: Any, g: Any, s: Any, room: Any, x: int, resets: int, state: int, h: int, dh: int, dx: int, batch: int,
        steps: int, inputs: int, inner: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        rows, like = batch * steps, flip - flip
        scan_items_backward(
            0, batch * ((inner + LANES - 1) // LANES), g[INPUT_BIAS], s[OF_GATES], state, resets, h, dh,
            room[NO_STATE], room[DGATES], room[DSTATE], batch, steps, inner, state_size, flip, parts, candidate,
        )  # fmt: skip
        if dx:
            input_gradient(room[MATMUL], dx, room[DGATES], w[INPUT], 0, rows, inputs, parts * inner, like)
        weight_gradient(room[MATMUL], g[INPUT], room[DGATES], x, rows, inputs, parts * inner, like)

    return forward, backward


@allocating
def enter(state: int, entering: int, batch: int, size: int, state_size: int, like: Any) -> Any:
    """Copy a cell's part of each state (B, S), and return it flat."""
    states, own = matrix(state, batch, state_size, like), matrix(entering, batch, size, like)
    for b in range(batch):
        copy_row(states[b], own[b], size)
    return vector(entering, batch * size, like)


@inlined
def add_input(h: int, to: int, out: int, size: int, like: Any) -> None:
    """Compute out = to + h where there is a place for it."""
    if out:
        add_to(vector(to, size, like), vector(h, size, like), vector(out, size, like), size)


@inlined
def gradients(
    w: Any, g: Any, room: Any, dpre: int, x: int, dx: int, rows: int, inputs: int, inner: int, wide: int, like: Any
) -> None:
    """Compute the gradients to the weights and to x from those to the gates (N, PH) and from h_{t-1} (N, H)."""
    weight_gradient(room[MATMUL], g[INPUT], room[DGATES], x, rows, inputs, wide, like)
    weight_gradient(room[MATMUL], g[RECURRENT], dpre, room[BEFORE], rows, inner, wide, like)
    if w[INPUT_BIAS]:
        bias_gradient(g[INPUT_BIAS], room[DGATES], room[PARTIAL], rows, wide, like)
        bias_gradient(g[RECURRENT_BIAS], dpre, room[PARTIAL], rows, wide, like)
    if dx:
        input_gradient(room[MATMUL], dx, room[DGATES], w[INPUT], 0, rows, inputs, wide, like)


def _gru(kind: CellKind) -> Passes:
    def forward(
        w: Any, g: Any, s: Any, room: Any, x: int, resets: int, state: int, h: int, to: int, out: int, batch: int,
        steps: int, inputs: int, inner: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        rows, wide, like = batch * steps, 3 * inner, flip - flip
        linear(room[MATMUL], s[OF_GATES], x, w[INPUT], w[INPUT_BIAS], room[TURNED], rows, inputs, wide, like)
        transpose(w[RECURRENT], room[TURNED], wide, inner, wide + lstm.MARGIN, like)
        entering, nothing = enter(state, s[ENTERING], batch, inner, state_size, like), vector(0, 0, like)
        gates, turned = vector(s[OF_GATES], rows * wide, like), vector(room[TURNED], inner * (wide + lstm.MARGIN), like)
        reset, bias = vector(resets, rows, _BYTE), vector(w[RECURRENT_BIAS], wide, like)
        of_h, mapped = vector(h, rows * inner, like), vector(s[KEPT], 4 * rows * inner, like)
        for row in range(0, batch, _ROWS):
            gru.forward_rows(
                gates, turned, bias, entering, reset, of_h, nothing, mapped, row, min(_ROWS, batch - row), steps, steps,
                inner,
            )  # fmt: skip
        add_input(h, to, out, rows * inner, like)

    def backward(
        w: Any, g: Any, s: Any, room: Any, x: int, resets: int, state: int, h: int, dh: int, dx: int, batch: int,
        steps: int, inputs: int, inner: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        rows, wide, like = batch * steps, 3 * inner, flip - flip
        nothing, entering = vector(0, 0, like), vector(s[ENTERING], batch * inner, like)
        weight, reset = vector(w[RECURRENT], wide * inner, like), vector(resets, rows, _BYTE)
        mapped, of_h = vector(s[KEPT], 4 * rows * inner, like), vector(h, rows * inner, like)
        dgates, dpre = vector(room[DGATES], rows * wide, like), vector(room[DPRE], rows * wide, like)
        incoming, before = vector(dh, rows * inner, like), vector(room[BEFORE], rows * inner, like)
        for row in range(0, batch, _ROWS):
            gru.backward_rows(
                weight, entering, reset, of_h, mapped, incoming, nothing, dgates, dpre, nothing, before,
                row, min(_ROWS, batch - row), steps, inner,
            )  # fmt: skip
        gradients(w, g, room, room[DPRE], x, dx, rows, inputs, inner, wide, like)

    return forward, backward


def _lstm(kind: CellKind) -> Passes:
    def forward(
        w: Any, g: Any, s: Any, room: Any, x: int, resets: int, state: int, h: int, to: int, out: int, batch: int,
        steps: int, inputs: int, inner: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        rows, wide, like, bias = batch * steps, 4 * inner, flip - flip, 0
        if w[INPUT_BIAS]:
            bias = room[PARTIAL]
            add_to(
                vector(w[INPUT_BIAS], wide, like), vector(w[RECURRENT_BIAS], wide, like), vector(bias, wide, like), wide
            )
        linear(room[MATMUL], s[OF_GATES], x, w[INPUT], bias, room[TURNED], rows, inputs, wide, like)
        transpose(w[RECURRENT], room[TURNED], wide, inner, wide + lstm.MARGIN, like)
        entering, nothing = enter(state, s[ENTERING], batch, 2 * inner, state_size, like), vector(0, 0, like)
        gates, turned = vector(s[OF_GATES], rows * wide, like), vector(room[TURNED], inner * (wide + lstm.MARGIN), like)
        of_h, cells = vector(h, rows * inner, like), vector(s[KEPT], rows * inner, like)
        reset = vector(resets, rows, _BYTE)
        for row in range(0, batch, _ROWS):
            lstm.forward_rows(
                gates, turned, entering, reset, of_h, nothing, cells, row, min(_ROWS, batch - row), steps, inner
            )
        add_input(h, to, out, rows * inner, like)

    def backward(
        w: Any, g: Any, s: Any, room: Any, x: int, resets: int, state: int, h: int, dh: int, dx: int, batch: int,
        steps: int, inputs: int, inner: int, state_size: int, flip: Any,
    ) -> None:  # fmt: skip
        rows, wide, like = batch * steps, 4 * inner, flip - flip
        nothing, entering = vector(0, 0, like), vector(s[ENTERING], 2 * batch * inner, like)
        weight, gates = vector(w[RECURRENT], wide * inner, like), vector(s[OF_GATES], rows * wide, like)
        reset, cells = vector(resets, rows, _BYTE), vector(s[KEPT], rows * inner, like)
        of_h, incoming = vector(h, rows * inner, like), vector(dh, rows * inner, like)
        dgates, before = vector(room[DGATES], rows * wide, like), vector(room[BEFORE], rows * inner, like)
        for row in range(0, batch, _ROWS):
            lstm.backward_rows(
                weight, entering, reset, of_h, gates, cells, incoming, nothing, dgates, nothing, before,
                row, min(_ROWS, batch - row), steps, inner,
            )  # fmt: skip
        gradients(w, g, room, room[DGATES], x, dx, rows, inputs, inner, wide, like)

    return forward, backward


_PASSES = {MINGRU: _gated, MINLSTM: _gated, GRU: _gru, LSTM: _lstm}
