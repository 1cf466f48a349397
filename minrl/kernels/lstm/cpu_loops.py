"""The compiled loops of the LSTM on a CPU: matmul with W_hh, gates, c and resets at every step, and the adjoint.

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
from minrl.kernels.jit.rows import copy_row
from minrl.kernels.lstm.cpu_matmul import add_product, transpose

# Padding between two rows of the transposed weights: at a stride of a power of two, the rows of a wide layer would
# evict each other from the cache.
MARGIN = 16
# Batch rows of one pass: each weight is read once for all of them.
_ROWS = 64
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@inlined
def opens(reset: Any, step: int) -> bool:
    """Return True if an episode begins at a step."""
    return bool(reset.size and reset[step])


@inlined
def sigmoid(x: Any, constants: Any) -> Any:
    return _ONE / (_ONE + exponential(x, -1.0, constants))


@inlined
def tanh(x: Any, constants: Any) -> Any:
    return _TWO / (_ONE + exponential(x, -2.0, constants)) - _ONE


@inlined
def gates_row(i: Any, f: Any, g: Any, o: Any, c: Any, h: Any, width: int) -> None:
    """Map the gates in place, and advance c and h by one step."""
    constants = held_constants()
    for d in range(width):
        insert, forget = sigmoid(i[d], constants), sigmoid(f[d], constants)
        content, show = tanh(g[d], constants), sigmoid(o[d], constants)
        i[d], f[d], g[d], o[d] = insert, forget, content, show
        c[d] = forget * c[d] + insert * content
        h[d] = show * tanh(c[d], constants)


@inlined
def gradients_row(
    i: Any, f: Any, g: Any, o: Any, c: Any, before: Any, of_h: Any, of_c: Any, di: Any, df: Any, dg: Any, do: Any,
    width: int,
) -> None:  # fmt: skip
    """Compute the gradients to the gates before their maps; `of_c`, the one to c_t, becomes that to c_{t-1}."""
    constants = held_constants()
    for d in range(width):
        insert, forget, content, show, seen = i[d], f[d], g[d], o[d], tanh(c[d], constants)
        total = of_c[d] + of_h[d] * show * (_ONE - seen * seen)
        di[d] = total * content * (insert * (_ONE - insert))
        df[d] = total * before[d] * (forget * (_ONE - forget))
        dg[d] = total * insert * (_ONE - content * content)
        do[d] = of_h[d] * seen * (show * (_ONE - show))
        of_c[d] = total * forget


@inlined
def add_row(y: Any, x: Any, width: int) -> None:
    for d in range(width):
        y[d] += x[d]


@inlined
def halves(both: Any, first: Any, second: Any, at: int, rows: int, width: int) -> None:
    """Copy rows h | c of `both`, from `at` on, to the rows of h and of c; do nothing without `both`."""
    if both.size:
        for b in range(rows):
            here, row = at + 2 * b * width, b * width
            copy_row(both[here : here + width], first[row : row + width], width)
            copy_row(both[here + width : here + 2 * width], second[row : row + width], width)


@inlined
def together(first: Any, second: Any, both: Any, at: int, rows: int, width: int) -> None:
    """Compute the backward pass of `halves`."""
    if both.size:
        for b in range(rows):
            here, row = at + 2 * b * width, b * width
            copy_row(first[row : row + width], both[here : here + width], width)
            copy_row(second[row : row + width], both[here + width : here + 2 * width], width)


@allocating
def forward_rows(
    gates: Any, turned: Any, state: Any, reset: Any, h: Any, last: Any, cells: Any,
    first: int, rows: int, steps: int, width: int,
) -> None:  # fmt: skip
    wide = 4 * width
    hidden, memory = np.zeros(rows * width, h.dtype), np.zeros(rows * width, h.dtype)
    halves(state, hidden, memory, first * 2 * width, rows, width)
    for t in range(steps):
        for b in range(rows):
            if opens(reset, (first + b) * steps + t):
                hidden[b * width : (b + 1) * width] = _ZERO
                memory[b * width : (b + 1) * width] = _ZERO
        start = (first * steps + t) * wide
        add_product(gates, start, steps * wide, hidden, 0, width, turned, wide + MARGIN, rows, width, wide, t)
        for b in range(rows):
            step, row = (first + b) * steps + t, slice(b * width, (b + 1) * width)
            at, here = step * wide, slice(step * width, (step + 1) * width)
            gates_row(
                gates[at : at + width], gates[at + width : at + 2 * width], gates[at + 2 * width : at + 3 * width],
                gates[at + 3 * width : at + wide], memory[row], hidden[row], width,
            )  # fmt: skip
            copy_row(hidden[row], h[here], width)
            if cells.size:
                copy_row(memory[row], cells[here], width)
    together(hidden, memory, last, first * 2 * width, rows, width)


@allocating
def backward_rows(
    weight: Any, state: Any, reset: Any, h: Any, gates: Any, cells: Any, dh: Any, dlast: Any,
    dgates: Any, dstate: Any, before: Any, first: int, rows: int, steps: int, width: int,
) -> None:  # fmt: skip
    wide, nothing = 4 * width, np.zeros(width, h.dtype)
    of_h, of_c = np.zeros(rows * width, h.dtype), np.zeros(rows * width, h.dtype)
    halves(dlast, of_h, of_c, first * 2 * width, rows, width)
    for t in range(steps - 1, -1, -1):
        for b in range(rows):
            step, row = (first + b) * steps + t, slice(b * width, (b + 1) * width)
            at, here = step * wide, slice(step * width, (step + 1) * width)
            h_before, c_before = nothing[:], nothing[:]
            if not opens(reset, step):
                if t > 0:
                    h_before = h[(step - 1) * width : step * width]
                    c_before = cells[(step - 1) * width : step * width]
                elif state.size:
                    entering = (first + b) * 2 * width
                    h_before = state[entering : entering + width]
                    c_before = state[entering + width : entering + 2 * width]
            copy_row(h_before, before[here], width)
            if dh.size:
                add_row(of_h[row], dh[here], width)
            gradients_row(
                gates[at : at + width], gates[at + width : at + 2 * width], gates[at + 2 * width : at + 3 * width],
                gates[at + 3 * width : at + wide], cells[here], c_before, of_h[row], of_c[row],
                dgates[at : at + width], dgates[at + width : at + 2 * width],
                dgates[at + 2 * width : at + 3 * width], dgates[at + 3 * width : at + wide], width,
            )  # fmt: skip
        of_h[:] = _ZERO
        if t > 0 or dstate.size:
            start = (first * steps + t) * wide
            add_product(of_h, 0, width, dgates, start, steps * wide, weight, width, rows, wide, width, t)
        for b in range(rows):
            if opens(reset, (first + b) * steps + t):
                of_h[b * width : (b + 1) * width] = _ZERO
                of_c[b * width : (b + 1) * width] = _ZERO
    together(of_h, of_c, dstate, first * 2 * width, rows, width)


@cache
def transpose_weights() -> Callable[..., None]:
    """Build the kernel of W_hh (G, H) -> its transpose (H, G) with padding after each row; G is 4H, of a GRU 3H."""

    def kernel(weight_at: int, turned_at: int, wide: int, width: int, like: Any) -> None:
        weight = vector(weight_at, wide * width, like)
        turned = vector(turned_at, width * (wide + MARGIN), like)
        transpose(weight, turned, wide + MARGIN, wide, width)

    return compiled(kernel)


@cache
def forward() -> Callable[..., None]:
    """Build the kernel of gates (B, T, 4H), W_hh from `transpose_weights`, state, reset -> h (B, T, H), last (B, 2H).

    The gates are mapped in place; `cells` (B, T, H) saves c of each step for the backward pass.
    """

    def kernel(
        gates_at: int, turned_at: int, state_at: int, reset_at: int, h_at: int, last_at: int, cells_at: int,
        first: int, end: int, batch: int, steps: int, width: int, like: Any,
    ) -> None:  # fmt: skip
        size = batch * steps * width
        gates, turned = vector(gates_at, 4 * size, like), vector(turned_at, width * (4 * width + MARGIN), like)
        state, reset = vector(state_at, batch * 2 * width, like), vector(reset_at, batch * steps, np.uint8(0))
        h, last = vector(h_at, size, like), vector(last_at, batch * 2 * width, like)
        cells = vector(cells_at, size, like)
        for row in range(first, end, _ROWS):
            forward_rows(gates, turned, state, reset, h, last, cells, row, min(_ROWS, end - row), steps, width)

    return compiled(kernel)


@cache
def backward() -> Callable[..., None]:
    """Build the kernel from the gradients to h and last to those to the unmapped gates (B, T, 4H) and state (B, 2H).

    Gates, h and cells are those of `forward`; `before` (B, T, H) takes h_{t-1} after resets, for the gradient to
    W_hh (4H, H).
    """

    def kernel(
        weight_at: int, state_at: int, reset_at: int, h_at: int, gates_at: int, cells_at: int, dh_at: int,
        dlast_at: int, dgates_at: int, dstate_at: int, before_at: int,
        first: int, end: int, batch: int, steps: int, width: int, like: Any,
    ) -> None:  # fmt: skip
        size = batch * steps * width
        weight, gates = vector(weight_at, 4 * width * width, like), vector(gates_at, 4 * size, like)
        state, reset = vector(state_at, batch * 2 * width, like), vector(reset_at, batch * steps, np.uint8(0))
        h, cells, dh = vector(h_at, size, like), vector(cells_at, size, like), vector(dh_at, size, like)
        dlast, dstate = vector(dlast_at, batch * 2 * width, like), vector(dstate_at, batch * 2 * width, like)
        dgates, before = vector(dgates_at, 4 * size, like), vector(before_at, size, like)
        for row in range(first, end, _ROWS):
            backward_rows(
                weight, state, reset, h, gates, cells, dh, dlast, dgates, dstate, before,
                row, min(_ROWS, end - row), steps, width,
            )  # fmt: skip

    return compiled(kernel)
