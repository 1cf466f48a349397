"""The compiled loops of the GRU on a CPU: matmul with W_hh, gates, state and resets at every step, and the adjoint.

Tensors are read and written in place, through their addresses; the address of an absent tensor is 0. One call does
all steps of the batch rows `first` to `end`.

Shapes: B batch, T time, H width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import allocating, compiled, inlined
from minrl.kernels.jit.math import exponential, held_constants
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import add, copy_row
from minrl.kernels.lstm.cpu_loops import MARGIN, opens
from minrl.kernels.lstm.cpu_matmul import add_product

# Batch rows of one pass: each weight is read once for all of them.
_ROWS = 64
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@inlined
def gates_row(x_r: Any, x_z: Any, x_n: Any, r: Any, z: Any, p: Any, n: Any, h: Any, width: int) -> None:
    """Map the state's part to r, z and p with the input's part, in place; advance n and h by one step."""
    constants = held_constants()
    for d in range(width):
        let_in = _ONE / (_ONE + exponential(x_r[d] + r[d], -1.0, constants))
        update = _ONE / (_ONE + exponential(x_z[d] + z[d], -1.0, constants))
        content = _TWO / (_ONE + exponential(x_n[d] + let_in * p[d], -2.0, constants)) - _ONE
        r[d], z[d], n[d] = let_in, update, content
        h[d] = content + update * (h[d] - content)


@inlined
def gradients_row(
    r: Any, z: Any, p: Any, n: Any, before: Any, of_h: Any, dr: Any, dz: Any, dn: Any, er: Any, ez: Any, ep: Any,
    width: int,
) -> None:  # fmt: skip
    """Compute the gradients to the input's (d) and the state's (e) part of the gates, and to h_{t-1}, in `of_h`."""
    for d in range(width):
        total, update, content, let_in = of_h[d], z[d], n[d], r[d]
        of_content = total * (_ONE - update) * (_ONE - content * content)
        of_update = total * (before[d] - content) * (update * (_ONE - update))
        of_let_in = of_content * p[d] * (let_in * (_ONE - let_in))
        dr[d], dz[d], dn[d] = of_let_in, of_update, of_content
        er[d], ez[d], ep[d] = of_let_in, of_update, of_content * let_in
        of_h[d] = total * update


@allocating
def forward_rows(
    gates: Any, turned: Any, bias: Any, state: Any, reset: Any, h: Any, last: Any, mapped: Any,
    first: int, rows: int, steps: int, kept: int, width: int,
) -> None:  # fmt: skip
    wide = 3 * width
    hidden = np.zeros(rows * width, h.dtype)
    if state.size:
        copy_row(state[first * width : (first + rows) * width], hidden, rows * width)
    for t in range(steps):
        now = t if kept > 1 else 0
        for b in range(rows):
            if opens(reset, (first + b) * steps + t):
                hidden[b * width : (b + 1) * width] = _ZERO
            at = ((first + b) * kept + now) * 4 * width
            if bias.size:
                copy_row(bias, mapped[at : at + wide], wide)
            else:
                mapped[at : at + wide] = _ZERO
        start = (first * kept + now) * 4 * width
        add_product(
            mapped, start, kept * 4 * width, hidden, 0, width, turned, wide + MARGIN, rows, width, wide, t
        )  # fmt: skip
        for b in range(rows):
            step, row = (first + b) * steps + t, slice(b * width, (b + 1) * width)
            x, at = step * wide, ((first + b) * kept + now) * 4 * width
            gates_row(
                gates[x : x + width], gates[x + width : x + 2 * width], gates[x + 2 * width : x + wide],
                mapped[at : at + width], mapped[at + width : at + 2 * width], mapped[at + 2 * width : at + wide],
                mapped[at + wide : at + 4 * width], hidden[row], width,
            )  # fmt: skip
            copy_row(hidden[row], h[step * width : (step + 1) * width], width)
    if last.size:
        copy_row(hidden, last[first * width : (first + rows) * width], rows * width)


@allocating
def backward_rows(
    weight: Any, state: Any, reset: Any, h: Any, mapped: Any, dh: Any, dlast: Any, dgates: Any, dpre: Any,
    dstate: Any, before: Any, first: int, rows: int, steps: int, width: int,
) -> None:  # fmt: skip
    wide, nothing = 3 * width, np.zeros(width, h.dtype)
    of_h = np.zeros(rows * width, h.dtype)
    if dlast.size:
        copy_row(dlast[first * width : (first + rows) * width], of_h, rows * width)
    for t in range(steps - 1, -1, -1):
        for b in range(rows):
            step, row = (first + b) * steps + t, slice(b * width, (b + 1) * width)
            x, at, here = step * wide, step * 4 * width, slice(step * width, (step + 1) * width)
            h_before = nothing[:]
            if not opens(reset, step):
                if t > 0:
                    h_before = h[(step - 1) * width : step * width]
                elif state.size:
                    h_before = state[(first + b) * width : (first + b + 1) * width]
            copy_row(h_before, before[here], width)
            if dh.size:
                add(of_h[row], dh[here], width)
            gradients_row(
                mapped[at : at + width], mapped[at + width : at + 2 * width], mapped[at + 2 * width : at + wide],
                mapped[at + wide : at + 4 * width], h_before, of_h[row],
                dgates[x : x + width], dgates[x + width : x + 2 * width], dgates[x + 2 * width : x + wide],
                dpre[x : x + width], dpre[x + width : x + 2 * width], dpre[x + 2 * width : x + wide], width,
            )  # fmt: skip
        if t > 0 or dstate.size:
            start = (first * steps + t) * wide
            add_product(of_h, 0, width, dpre, start, steps * wide, weight, width, rows, wide, width, t)
        for b in range(rows):
            if opens(reset, (first + b) * steps + t):
                of_h[b * width : (b + 1) * width] = _ZERO
    if dstate.size:
        copy_row(of_h, dstate[first * width : (first + rows) * width], rows * width)


@cache
def forward() -> Callable[..., None]:
    """Build the kernel of gates (B, T, 3H), transposed W_hh, bias, state, reset -> h (B, T, H), last (B, H).

    W_hh is transposed by `transpose_weights` of the LSTM. `mapped` (B, T or 1, 4H) saves the gates of each step, or
    holds those of the current one.
    """

    def kernel(
        gates_at: int, turned_at: int, bias_at: int, state_at: int, reset_at: int, h_at: int, last_at: int,
        mapped_at: int, first: int, end: int, batch: int, steps: int, kept: int, width: int, like: Any,
    ) -> None:  # fmt: skip
        size = batch * steps * width
        gates, turned = vector(gates_at, 3 * size, like), vector(turned_at, width * (3 * width + MARGIN), like)
        bias, state = vector(bias_at, 3 * width, like), vector(state_at, batch * width, like)
        reset, h = vector(reset_at, batch * steps, np.uint8(0)), vector(h_at, size, like)
        last, mapped = vector(last_at, batch * width, like), vector(mapped_at, batch * kept * 4 * width, like)
        for row in range(first, end, _ROWS):
            rows = min(_ROWS, end - row)
            forward_rows(gates, turned, bias, state, reset, h, last, mapped, row, rows, steps, kept, width)

    return compiled(kernel)


@cache
def backward() -> Callable[..., None]:
    """Build the kernel from the gradients to h and last to those to both parts of the gates (B, T, 3H) and state.

    `mapped` and h are those of `forward`; `before` (B, T, H) takes h_{t-1} after resets, for the gradient to W_hh
    (3H, H).
    """

    def kernel(
        weight_at: int, state_at: int, reset_at: int, h_at: int, mapped_at: int, dh_at: int, dlast_at: int,
        dgates_at: int, dpre_at: int, dstate_at: int, before_at: int,
        first: int, end: int, batch: int, steps: int, width: int, like: Any,
    ) -> None:  # fmt: skip
        size = batch * steps * width
        weight, mapped = vector(weight_at, 3 * width * width, like), vector(mapped_at, 4 * size, like)
        state, reset = vector(state_at, batch * width, like), vector(reset_at, batch * steps, np.uint8(0))
        h, dh = vector(h_at, size, like), vector(dh_at, size, like)
        dlast, dstate = vector(dlast_at, batch * width, like), vector(dstate_at, batch * width, like)
        dgates, dpre = vector(dgates_at, 3 * size, like), vector(dpre_at, 3 * size, like)
        before = vector(before_at, size, like)
        for row in range(first, end, _ROWS):
            backward_rows(
                weight, state, reset, h, mapped, dh, dlast, dgates, dpre, dstate, before,
                row, min(_ROWS, end - row), steps, width,
            )  # fmt: skip

    return compiled(kernel)
