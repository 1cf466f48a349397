"""Forward and backward pass of LSTM layers inside the compiled update, from addresses.

Shapes: B segments, T time, N = B * T rows, H width, S state size of the whole policy.
"""

from typing import Any

import numpy as np

from minrl.kernels.jit.compile import inlined
from minrl.kernels.jit.memory import matrix, vector
from minrl.kernels.jit.rows import add_to, copy_row
from minrl.kernels.lstm.cpu_loops import MARGIN, backward_rows, forward_rows
from minrl.kernels.ppo.backbone import DGATES, DH, DX, MATMUL, PARTIAL, TURNED
from minrl.kernels.ppo.linear import bias_gradient, input_gradient, linear, transpose, weight_gradient

# The parts of a layer in the order of their addresses, as torch has them, and what a layer keeps.
INPUT, RECURRENT, INPUT_BIAS, RECURRENT_BIAS, PER_LAYER = range(5)
OF_GATES, H, CELLS, STATE, SAVED = range(5)
# Segments that run together: each weight is read once for all of them.
_ROWS, _BYTE = 64, np.uint8(0)


@inlined
def forward(
    weights: Any, saved: Any, room: Any, inputs: int, resets: int, state: int, latent: int, batch: int, steps: int,
    sizes: Any, like: Any,
) -> None:  # fmt: skip
    """Compute inputs (N, ·), resets (B, T) and h | c of each layer in state (B, S) -> latent (N, H)."""
    width, rows, x, columns = sizes.width, batch * steps, inputs, sizes.inputs
    reset, states = vector(resets, rows, _BYTE), matrix(state, batch, sizes.state, like)
    wide = 4 * width
    for i in range(sizes.depth):
        w, s = weights[i * PER_LAYER : (i + 1) * PER_LAYER], saved[i * SAVED : (i + 1) * SAVED]
        entering, first = matrix(s[STATE], batch, 2 * width, like), 2 * width * i
        for b in range(batch):
            copy_row(states[b][first : first + 2 * width], entering[b], 2 * width)
        bias = 0
        if w[INPUT_BIAS]:
            bias = room[PARTIAL]
            add_to(
                vector(w[INPUT_BIAS], wide, like), vector(w[RECURRENT_BIAS], wide, like), vector(bias, wide, like), wide
            )
        linear(room[MATMUL], s[OF_GATES], x, w[INPUT], bias, room[TURNED], rows, columns, wide, like)
        transpose(w[RECURRENT], room[TURNED], wide, width, wide + MARGIN, like)
        h = latent if i == sizes.depth - 1 else s[H]
        gates, turned = vector(s[OF_GATES], rows * wide, like), vector(room[TURNED], width * (wide + MARGIN), like)
        out, cells = vector(h, rows * width, like), vector(s[CELLS], rows * width, like)
        for row in range(0, batch, _ROWS):
            forward_rows(
                gates, turned, vector(s[STATE], batch * 2 * width, like), reset, out, vector(0, 0, like), cells,
                row, min(_ROWS, batch - row), steps, width,
            )  # fmt: skip
        x, columns = h, width


@inlined
def backward(
    weights: Any, gradients: Any, saved: Any, room: Any, inputs: int, resets: int, latent: int, dlatent: int,
    batch: int, steps: int, sizes: Any, like: Any,
) -> None:  # fmt: skip
    """Compute the gradients to the weights from those to the latents (N, H)."""
    width, rows, dh = sizes.width, batch * steps, dlatent
    reset, nothing, wide = vector(resets, rows, _BYTE), vector(0, 0, like), 4 * width
    for i in range(sizes.depth - 1, -1, -1):
        w, g = weights[i * PER_LAYER : (i + 1) * PER_LAYER], gradients[i * PER_LAYER : (i + 1) * PER_LAYER]
        s = saved[i * SAVED : (i + 1) * SAVED]
        h, x, columns = latent if i == sizes.depth - 1 else s[H], inputs, sizes.inputs
        if i:
            x, columns = saved[(i - 1) * SAVED + H], width
        weight, gates = vector(w[RECURRENT], wide * width, like), vector(s[OF_GATES], rows * wide, like)
        dgates, before = vector(room[DGATES], rows * wide, like), vector(room[DH], rows * width, like)
        for row in range(0, batch, _ROWS):
            backward_rows(
                weight, vector(s[STATE], batch * 2 * width, like), reset, vector(h, rows * width, like), gates,
                vector(s[CELLS], rows * width, like), vector(dh, rows * width, like), nothing, dgates, nothing, before,
                row, min(_ROWS, batch - row), steps, width,
            )  # fmt: skip
        weight_gradient(room[MATMUL], g[INPUT], room[DGATES], x, rows, columns, wide, like)
        weight_gradient(room[MATMUL], g[RECURRENT], room[DGATES], room[DH], rows, width, wide, like)
        if w[INPUT_BIAS]:
            bias_gradient(g[INPUT_BIAS], room[DGATES], room[PARTIAL], rows, wide, like)
            copy_row(vector(g[INPUT_BIAS], wide, like), vector(g[RECURRENT_BIAS], wide, like), wide)
        if i:
            input_gradient(room[MATMUL], room[DX], room[DGATES], w[INPUT], 0, rows, width, wide, like)
            dh = room[DX]
