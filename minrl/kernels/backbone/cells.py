"""Steps of the recurrence of a block in float32: each cell is a small function that is compiled by itself.

Kernels call it by its address, so that they are compiled once for all cells.

Shapes: B batch, D width of the input, H inner width, P parts of the gates.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from minrl.kernels.backbone.gemv import linear
from minrl.kernels.gru import cpu_loops as gru
from minrl.kernels.jit.calls import caller_of_cell_step
from minrl.kernels.jit.compile import addressed, called
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import add, copy_row
from minrl.kernels.kinds import GRU, LSTM, MINGRU, MINLSTM, CellKind
from minrl.kernels.lstm import cpu_loops as lstm
from minrl.kernels.scan.cpu_gates import forward_row

_ZERO, _SIZE = np.float32(0), np.dtype(np.float32).itemsize
_step = caller_of_cell_step()


@cache
def step_address(kind: CellKind) -> int:
    """Return the address of the function that computes h (B, H) and the next state, in place, of a cell.

    Its arguments: the addresses of the input's part of the gates (B, PH), of the state's part, of the state and of h;
    elements from row to row of the state; B, H and the sign of minGRU and minLSTM.
    """
    return addressed(_STEPS[kind.cell](kind), types.void(*[types.int64] * 7, types.float32))


def of_kind(kind: CellKind, inner: int) -> tuple[int, int, int]:
    """Return what kernels know of a cell: its address, the parts of its gates, and the elements of its state."""
    return step_address(kind), kind.parts, kind.states * inner


def _gated(kind: CellKind) -> Callable[..., None]:
    parts, candidate = kind.parts, kind.candidate

    def step(
        gates_at: int, more_at: int, state_at: int, h_at: int, stride: int, batch: int, inner: int, flip: Any
    ) -> None:
        for b in range(batch):
            g = vector(gates_at + b * parts * inner * _SIZE, parts * inner, flip)
            state, h = vector(state_at + b * stride * _SIZE, inner, flip), vector(h_at + b * inner * _SIZE, inner, flip)
            second, content = g[(parts - 2) * inner : (parts - 1) * inner], g[(parts - 1) * inner :]
            forward_row(g[:inner], second, content, state, h, parts, candidate, flip, inner)

    return step


def _gru(kind: CellKind) -> Callable[..., None]:
    def step(
        gates_at: int, more_at: int, state_at: int, h_at: int, stride: int, batch: int, inner: int, flip: Any
    ) -> None:
        wide, candidate = 3 * inner, np.empty(inner, np.float32)
        for b in range(batch):
            x, m = vector(gates_at + b * wide * _SIZE, wide, flip), vector(more_at + b * wide * _SIZE, wide, flip)
            state, h = vector(state_at + b * stride * _SIZE, inner, flip), vector(h_at + b * inner * _SIZE, inner, flip)
            gru.gates_row(
                x[:inner], x[inner : 2 * inner], x[2 * inner :], m[:inner], m[inner : 2 * inner], m[2 * inner :],
                candidate, state, inner,
            )  # fmt: skip
            copy_row(state, h, inner)

    return step


def _lstm(kind: CellKind) -> Callable[..., None]:
    def step(
        gates_at: int, more_at: int, state_at: int, h_at: int, stride: int, batch: int, inner: int, flip: Any
    ) -> None:
        wide = 4 * inner
        for b in range(batch):
            g, m = vector(gates_at + b * wide * _SIZE, wide, flip), vector(more_at + b * wide * _SIZE, wide, flip)
            state = vector(state_at + b * stride * _SIZE, 2 * inner, flip)
            h = vector(h_at + b * inner * _SIZE, inner, flip)
            add(g, m, wide)
            lstm.gates_row(
                g[:inner], g[inner : 2 * inner], g[2 * inner : 3 * inner], g[3 * inner :], state[inner:], h, inner
            )
            copy_row(h, state[:inner], inner)

    return step


_STEPS = {MINGRU: _gated, MINLSTM: _gated, GRU: _gru, LSTM: _lstm}


@called
def room_of_step(batch: int, parts: int, inner: int) -> int:
    """Return the elements that `cell_step` works with."""
    return batch * (2 * parts + 1) * inner


@called
def cell_step(
    cell: int, at: Any, x: Any, state: Any, first: int, stride: int, h: Any, room: Any, batch: int, inputs: int,
    inner: int, parts: int, flip: Any,
) -> None:  # fmt: skip
    """Compute from x (B, D) h (B, H); the states, in rows of `state` from `first` on, are advanced.

    Args:
        cell: its address.
        at: addresses of the input's weights (PH, D) and bias, and of the state's (PH, H) and bias, 0 for none.
        x, h: flat.
        state, first, stride: where the states lie.
        room: of `room_of_step`, at the start of a cache line.
        batch, inputs, inner, parts: B, D, H, P.
        flip: 1 for decays in (-1, 1) of minGRU and minLSTM, else 0.
    """
    wide = parts * inner
    gates, more, before = room[: batch * wide], room[batch * wide : 2 * batch * wide], room[2 * batch * wide :]
    linear(x, vector(at[0], wide * inputs, _ZERO), vector(at[1], wide, _ZERO), gates, batch, inputs, wide)
    if at[2]:
        for b in range(batch):
            of_row = first + b * stride
            copy_row(state[of_row : of_row + inner], before[b * inner : (b + 1) * inner], inner)
        linear(before, vector(at[2], wide * inner, _ZERO), vector(at[3], wide, _ZERO), more, batch, inner, wide)
    _step(
        cell, gates.ctypes.data, more.ctypes.data, state.ctypes.data + first * _SIZE, h.ctypes.data, stride, batch,
        inner, flip,
    )  # fmt: skip
