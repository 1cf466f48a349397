"""The compiled loops of the sLSTM on a CPU: a matmul per head, gates, state and resets at each step, and the adjoint.

Tensors are read and written in place, through their addresses; the address of an absent tensor is 0. One call does
all steps of the batch rows `first` to `end`.

Shapes: B batch, T time, H heads of E units, D = H * E.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import allocating, compiled, inlined
from minrl.kernels.jit.math import exponential, held_constants, log_one_plus
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import add, copy_row
from minrl.kernels.lstm.cpu_loops import MARGIN, opens
from minrl.kernels.lstm.cpu_matmul import add_product
from minrl.kernels.slstm.reference import EMPTY

# Batch rows of one pass: each weight is read once for all of them.
_ROWS = 64
_ZERO, _ONE, _TWO, _EMPTY = np.float32(0), np.float32(1), np.float32(2), np.float32(EMPTY)


@inlined
def gates_row(i: Any, f: Any, z: Any, o: Any, h: Any, c: Any, n: Any, m: Any, forgotten: Any, width: int) -> None:
    """Map the gates in place, and advance h, c, n, m by one step; `forgotten` is sigmoid(-f)."""
    constants = held_constants()
    for d in range(width):
        # log(sigmoid(f)) = min(f, 0) - log(1 + exp(-|f|))
        share = exponential(abs(f[d]), -1.0, constants)
        forgotten[d] = (share if f[d] > _ZERO else _ONE) / (_ONE + share)
        kept = (m[d] if n[d] > _ZERO else _EMPTY) + (min(f[d], _ZERO) - log_one_plus(share))
        unit = max(kept, i[d])
        insert, keep = exponential(i[d] - unit, 1.0, constants), exponential(kept - unit, 1.0, constants)
        content = _TWO / (_ONE + exponential(z[d], -2.0, constants)) - _ONE
        show = _ONE / (_ONE + exponential(o[d], -1.0, constants))
        i[d], f[d], z[d], o[d], m[d] = insert, keep, content, show, unit
        c[d] = keep * c[d] + insert * content
        n[d] = keep * n[d] + insert
        h[d] = show * c[d] / n[d]


@inlined
def gradients_row(
    insert: Any, keep: Any, content: Any, show: Any, c: Any, n: Any, forgotten: Any, c_before: Any, n_before: Any,
    of_h: Any, of_c: Any, of_n: Any, of_m: Any, di: Any, df: Any, dz: Any, do: Any, width: int,
) -> None:  # fmt: skip
    """Compute the gradients to the unmapped gates; those to c_t and n_t become those to c_{t-1} and n_{t-1}."""
    for d in range(width):
        ratio, through = c[d] / n[d], of_h[d] * show[d] / n[d]
        do[d] = of_h[d] * ratio * (show[d] * (_ONE - show[d]))
        dc, dn = of_c[d] + through, of_n[d] - through * ratio
        of_kept = keep[d] * (dc * c_before[d] + dn * n_before[d])
        di[d] = insert[d] * (dc * content[d] + dn)
        df[d] = of_kept * forgotten[d]
        dz[d] = dc * insert[d] * (_ONE - content[d] * content[d])
        of_c[d], of_n[d], of_m[d] = dc * keep[d], dn * keep[d], of_kept


@allocating
def forward_rows(
    gates: Any, weight: Any, state: Any, reset: Any, y: Any, last: Any, mapped: Any, cells: Any,
    first: int, rows: int, steps: int, kept: int, heads: int, size: int,
) -> None:  # fmt: skip
    width, wide = heads * size, 4 * size
    # Rows of h | c | n | m, as in the state.
    memory, spare = np.zeros(rows * 4 * width, y.dtype), np.empty(size, y.dtype)
    if state.size:
        copy_row(state[first * 4 * width : (first + rows) * 4 * width], memory, rows * 4 * width)
    for t in range(steps):
        now = t if kept > 1 else 0
        for b in range(rows):
            step, at = (first + b) * steps + t, ((first + b) * kept + now) * 4 * width
            if opens(reset, step):
                memory[b * 4 * width : (b + 1) * 4 * width] = _ZERO
            copy_row(gates[step * 4 * width : (step + 1) * 4 * width], mapped[at : at + 4 * width], 4 * width)
        start = (first * kept + now) * 4 * width
        for head in range(heads):
            of_head = weight[head * size * (wide + MARGIN) : (head + 1) * size * (wide + MARGIN)]
            add_product(
                mapped, start + head * wide, kept * 4 * width, memory, head * size, 4 * width,
                of_head, wide + MARGIN, rows, size, wide, t,
            )  # fmt: skip
        for b in range(rows):
            step, row = (first + b) * steps + t, b * 4 * width
            for head in range(heads):
                at, unit = ((first + b) * kept + now) * 4 * width + head * wide, head * size
                here, there = row + unit, step * 3 * width + unit
                forgotten = spare[:]
                if cells.size:
                    forgotten = cells[there + 2 * width : there + 2 * width + size]
                gates_row(
                    mapped[at : at + size], mapped[at + size : at + 2 * size], mapped[at + 2 * size : at + 3 * size],
                    mapped[at + 3 * size : at + wide], memory[here : here + size],
                    memory[here + width : here + width + size],
                    memory[here + 2 * width : here + 2 * width + size],
                    memory[here + 3 * width : here + 3 * width + size], forgotten, size,
                )  # fmt: skip
            copy_row(memory[row : row + width], y[step * width : (step + 1) * width], width)
            if cells.size:
                copy_row(
                    memory[row + width : row + 3 * width],
                    cells[step * 3 * width : (step + 1) * 3 * width - width],
                    2 * width,
                )
    copy_row(memory, last[first * 4 * width : (first + rows) * 4 * width], rows * 4 * width)


@allocating
def backward_rows(
    turned: Any, state: Any, reset: Any, y: Any, mapped: Any, cells: Any, dy: Any, dlast: Any,
    dgates: Any, dstate: Any, before: Any, first: int, rows: int, steps: int, heads: int, size: int,
) -> None:  # fmt: skip
    width, wide = heads * size, 4 * size
    nothing = np.zeros(3 * width, y.dtype)
    # Rows of the gradients to h | c | n | m.
    later = np.zeros(rows * 4 * width, y.dtype)
    if dlast.size:
        copy_row(dlast[first * 4 * width : (first + rows) * 4 * width], later, rows * 4 * width)
    for t in range(steps - 1, -1, -1):
        for b in range(rows):
            step, row = (first + b) * steps + t, b * 4 * width
            h_before, cells_before = nothing[:], nothing[:]
            if not opens(reset, step):
                if t > 0:
                    h_before = y[(step - 1) * width : step * width]
                    cells_before = cells[(step - 1) * 3 * width : step * 3 * width]
                elif state.size:
                    entering = (first + b) * 4 * width
                    h_before = state[entering : entering + width]
                    cells_before = state[entering + width : entering + 4 * width]
            copy_row(h_before, before[step * width : (step + 1) * width], width)
            if dy.size:
                add(later[row : row + width], dy[step * width : (step + 1) * width], width)
            for head in range(heads):
                at, unit = step * 4 * width + head * wide, head * size
                here, there = row + unit, step * 3 * width + unit
                gradients_row(
                    mapped[at : at + size], mapped[at + size : at + 2 * size], mapped[at + 2 * size : at + 3 * size],
                    mapped[at + 3 * size : at + wide], cells[there : there + size],
                    cells[there + width : there + width + size],
                    cells[there + 2 * width : there + 2 * width + size],
                    cells_before[unit : unit + size], cells_before[unit + width : unit + width + size],
                    later[here : here + size], later[here + width : here + width + size],
                    later[here + 2 * width : here + 2 * width + size],
                    later[here + 3 * width : here + 3 * width + size],
                    dgates[at : at + size], dgates[at + size : at + 2 * size],
                    dgates[at + 2 * size : at + 3 * size], dgates[at + 3 * size : at + wide], size,
                )  # fmt: skip
            later[row : row + width] = _ZERO
        if t > 0 or dstate.size:
            start = (first * steps + t) * 4 * width
            for head in range(heads):
                of_head = turned[head * wide * (size + MARGIN) : (head + 1) * wide * (size + MARGIN)]
                add_product(
                    later, head * size, 4 * width, dgates, start + head * wide, steps * 4 * width,
                    of_head, size + MARGIN, rows, wide, size, t,
                )  # fmt: skip
        for b in range(rows):
            if opens(reset, (first + b) * steps + t):
                later[b * 4 * width : (b + 1) * 4 * width] = _ZERO
    if dstate.size:
        copy_row(later, dstate[first * 4 * width : (first + rows) * 4 * width], rows * 4 * width)


@cache
def forward() -> Callable[..., None]:
    """Build the kernel of gates (B, T, H, 4E), weights (H, E, 4E) with padded rows -> h (B, T, D), last (B, 4D).

    `mapped` (B, T or 1, H, 4E) takes the mapped gates of all steps or of the current one; `cells` (B, T, 3D)
    saves c | n | sigmoid(-f) for the backward pass.
    """

    def kernel(
        gates_at: int, weight_at: int, state_at: int, reset_at: int, y_at: int, last_at: int, mapped_at: int,
        cells_at: int, first: int, end: int, batch: int, steps: int, kept: int, heads: int, size: int, like: Any,
    ) -> None:  # fmt: skip
        width = heads * size
        rows, numbers = batch * width, batch * steps * width
        gates, weight = vector(gates_at, 4 * numbers, like), vector(weight_at, width * (4 * size + MARGIN), like)
        state, reset = vector(state_at, 4 * rows, like), vector(reset_at, batch * steps, np.uint8(0))
        y, last = vector(y_at, numbers, like), vector(last_at, 4 * rows, like)
        mapped, cells = vector(mapped_at, kept * 4 * rows, like), vector(cells_at, 3 * numbers, like)
        for row in range(first, end, _ROWS):
            count = min(_ROWS, end - row)
            forward_rows(gates, weight, state, reset, y, last, mapped, cells, row, count, steps, kept, heads, size)

    return compiled(kernel)


@cache
def backward() -> Callable[..., None]:
    """Build the kernel from the gradients to h and last to those to the unmapped gates (B, T, H, 4E) and state.

    `turned` (H, 4E, E) are the transposed weights with padded rows; `before` (B, T, D) takes h_{t-1} after resets, for
    the gradient to the weights.
    """

    def kernel(
        turned_at: int, state_at: int, reset_at: int, y_at: int, mapped_at: int, cells_at: int, dy_at: int,
        dlast_at: int, dgates_at: int, dstate_at: int, before_at: int,
        first: int, end: int, batch: int, steps: int, heads: int, size: int, like: Any,
    ) -> None:  # fmt: skip
        width = heads * size
        rows, numbers = batch * width, batch * steps * width
        turned, mapped = vector(turned_at, 4 * width * (size + MARGIN), like), vector(mapped_at, 4 * numbers, like)
        state, reset = vector(state_at, 4 * rows, like), vector(reset_at, batch * steps, np.uint8(0))
        y, cells, dy = vector(y_at, numbers, like), vector(cells_at, 3 * numbers, like), vector(dy_at, numbers, like)
        dlast, dstate = vector(dlast_at, 4 * rows, like), vector(dstate_at, 4 * rows, like)
        dgates, before = vector(dgates_at, 4 * numbers, like), vector(before_at, numbers, like)
        for row in range(first, end, _ROWS):
            backward_rows(
                turned, state, reset, y, mapped, cells, dy, dlast, dgates, dstate, before,
                row, min(_ROWS, end - row), steps, heads, size,
            )  # fmt: skip

    return compiled(kernel)
