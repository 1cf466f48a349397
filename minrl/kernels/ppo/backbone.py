"""Forward and backward pass of a trunk of blocks inside the compiled update, from addresses.

The loops are those of `minrl.kernels.backbone`, which torch's operations run between matmuls elsewhere.

Shapes: B segments, T time, N = B * T rows, D width, H inner width, M hidden width of the MLP, K taps, S state size.
"""

from typing import Any, NamedTuple

from minrl.kernels.backbone.conv_loops import mix_pieces, mix_pieces_backward
from minrl.kernels.backbone.loops import (
    gelu_rows,
    gelu_rows_backward,
    norm_rows,
    norm_rows_backward,
)
from minrl.kernels.jit.compile import called, inlined, uncounted
from minrl.kernels.jit.threads import ROWS_PER_ITEM
from minrl.kernels.ppo.cells import (
    BACKWARD,
    DSTATE,
    FORWARD,
    LAST,
    MATMUL,
    NO_STATE,
    PARTIAL,
    PER_CELL,
    ROOM_OF_CELL,
    SAVED_OF_CELL,
    TURNED,
    run,
)
from minrl.kernels.ppo.linear import bias_gradient, input_gradient, linear, linear_added, weight_gradient
from minrl.kernels.ppo.matmul import lanes_of


class TrunkSizes(NamedTuple):
    """Sizes of a trunk: inputs, D, blocks, H, M and K (0 for what is not there), S of the whole policy."""

    layers: int  # 1 for recurrent layers alone, 0 for blocks
    inputs: int
    width: int
    depth: int
    inner: int
    memory: int  # elements of a cell's state
    hidden: int
    taps: int
    state: int


# The parts of a trunk in the order of their addresses, then those of each block and the final norm's two. From GATES on
# lie those of the cell.
EMBED, EMBED_BIAS, BLOCKS = range(3)
NORM, NORM_BIAS, TAPS, TAPS_BIAS, GATES = range(5)
DOWN, MLP_NORM, MLP_NORM_BIAS, UP, UP_BIAS, BACK, BACK_BIAS, PER_BLOCK = range(GATES + PER_CELL, GATES + PER_CELL + 8)
# What a block keeps: that of its cell, its input, the norms' statistics, the inputs of the gates, h, the MLP's input,
# what goes into the GELU, and its output.
X, STATS, U, H, MIXED, MLP_STATS, HIDDEN, OUT, SAVED = range(SAVED_OF_CELL, SAVED_OF_CELL + 9)
# Buffers that all blocks share, after those of the cells: two gradients to the stream, that to the cell's output and to
# its input, normed rows, and both sides of the GELU.
DX, DX_OTHER, DH, DU, NORMED, GELU, DHIDDEN, ROOM = range(ROOM_OF_CELL, ROOM_OF_CELL + 8)

_norm, _norm_backward = uncounted(norm_rows), called(norm_rows_backward)
_mix, _mix_backward = called(mix_pieces), called(mix_pieces_backward)
_gelu, _gelu_backward = uncounted(gelu_rows), called(gelu_rows_backward)


@inlined
def items_of(rows: int) -> int:
    return (rows + ROWS_PER_ITEM - 1) // ROWS_PER_ITEM


@inlined
def forward(
    weights: Any, saved: Any, room: Any, inputs: int, resets: int, state: int, latent: int, batch: int, steps: int,
    sizes: Any, epsilons: Any, flip: Any,
) -> None:  # fmt: skip
    """Compute inputs (N, ·), resets (B, T) and state (B, S) -> latent (N, D); `saved` takes what `backward` needs."""
    width, inner, hidden, taps, depth = sizes.width, sizes.inner, sizes.hidden, sizes.taps, sizes.depth
    size, rows, turned, matmul = lanes_of(flip)[1], batch * steps, room[TURNED], room[MATMUL]
    like = flip - flip
    linear(matmul, saved[X], inputs, weights[EMBED], weights[EMBED_BIAS], turned, rows, sizes.inputs, width, like)
    of_block = sizes.memory + max(taps - 1, 0) * width
    for i in range(depth):
        w = weights[BLOCKS + i * PER_BLOCK : BLOCKS + (i + 1) * PER_BLOCK]
        s = saved[i * SAVED : (i + 1) * SAVED]
        memory, recent = i * of_block * size, (i * of_block + sizes.memory) * size
        epsilon = epsilons[2 * i]
        if taps:
            _mix(
                0, batch * items_of(steps), s[X], state + recent, resets, w[NORM], w[NORM_BIAS], w[TAPS],
                w[TAPS_BIAS], s[U], s[STATS], room[LAST] + recent, batch, steps, width, taps, sizes.state, epsilon,
            )  # fmt: skip
        else:
            _norm(0, items_of(rows), s[X], w[NORM], w[NORM_BIAS], s[U], s[STATS], 0, 0, rows, width, epsilon)
        run(
            room[FORWARD], w[GATES:DOWN], w[GATES:DOWN], s, room, s[U], resets, state + memory, s[H],
            s[X], 0 if w[DOWN] else s[MIXED], batch, steps, width, inner, sizes.state, flip,
        )  # fmt: skip
        if w[DOWN]:
            linear_added(matmul, s[MIXED], s[H], w[DOWN], s[X], turned, rows, inner, width, like)
        if hidden:
            _norm(
                0, items_of(rows), s[MIXED], w[MLP_NORM], w[MLP_NORM_BIAS], room[NORMED], s[MLP_STATS],
                w[BACK_BIAS], s[OUT], rows, width, epsilons[2 * i + 1],
            )  # fmt: skip
            linear(matmul, s[HIDDEN], room[NORMED], w[UP], w[UP_BIAS], turned, rows, width, hidden, like)
            _gelu(0, items_of(rows), s[HIDDEN], room[GELU], rows, hidden, flip)
            to = s[OUT] if w[BACK_BIAS] else s[MIXED]
            linear_added(matmul, s[OUT], room[GELU], w[BACK], to, turned, rows, hidden, width, like)
    w, s = weights[BLOCKS + depth * PER_BLOCK :], saved[depth * SAVED :]
    _norm(0, items_of(rows), s[X], w[NORM], w[NORM_BIAS], latent, s[STATS], 0, 0, rows, width, epsilons[2 * depth])


@inlined
def backward(
    weights: Any, gradients: Any, saved: Any, room: Any, inputs: int, resets: int, state: int, dlatent: int,
    batch: int, steps: int, sizes: Any, flip: Any,
) -> None:  # fmt: skip
    """Compute the gradients to the weights from those to the latents (N, D).

    Those that are sums over rows are added to what is there. Of a norm, the address is that of three rows: weight, bias
    and a sum that is the last bias of an MLP; after the first two of a block those of the taps follow, if any.
    """
    width, inner, hidden, taps, depth = sizes.width, sizes.inner, sizes.hidden, sizes.taps, sizes.depth
    size, rows, matmul, like = lanes_of(flip)[1], batch * steps, room[MATMUL], flip - flip
    of_block = sizes.memory + max(taps - 1, 0) * width
    w, g, s = weights[BLOCKS + depth * PER_BLOCK :], gradients[BLOCKS + depth * PER_BLOCK :], saved[depth * SAVED :]
    dy, dx = room[DX], room[DX_OTHER]
    _norm_backward(
        0, items_of(rows), g[NORM], s[X], s[STATS], w[NORM], w[NORM_BIAS], dlatent, 0, dy, 0, rows, width, flip
    )  # fmt: skip
    for i in range(depth - 1, -1, -1):
        w = weights[BLOCKS + i * PER_BLOCK : BLOCKS + (i + 1) * PER_BLOCK]
        g = gradients[BLOCKS + i * PER_BLOCK : BLOCKS + (i + 1) * PER_BLOCK]
        s = saved[i * SAVED : (i + 1) * SAVED]
        memory, recent = i * of_block * size, (i * of_block + sizes.memory) * size
        if hidden:
            input_gradient(matmul, room[DHIDDEN], dy, w[BACK], 0, rows, hidden, width, like)
            _gelu_backward(0, items_of(rows), g[UP_BIAS], s[HIDDEN], room[GELU], room[DHIDDEN], rows, hidden, flip)
            input_gradient(matmul, room[DU], room[DHIDDEN], w[UP], 0, rows, width, hidden, like)
            _norm_backward(
                0, items_of(rows), g[MLP_NORM], s[MIXED], s[MLP_STATS], w[MLP_NORM], w[MLP_NORM_BIAS], room[DU], dy,
                dx, room[NORMED], rows, width, flip,
            )  # fmt: skip
            weight_gradient(matmul, g[BACK], dy, room[GELU], rows, hidden, width, like)
            weight_gradient(matmul, g[UP], room[DHIDDEN], room[NORMED], rows, width, hidden, like)
            dy, dx = dx, dy
        dh = dy
        if w[DOWN]:
            dh = room[DH]
            input_gradient(matmul, dh, dy, w[DOWN], 0, rows, inner, width, like)
            weight_gradient(matmul, g[DOWN], dy, s[H], rows, inner, width, like)
        run(
            room[BACKWARD], w[GATES:DOWN], g[GATES:DOWN], s, room, s[U], resets, state + memory, s[H],
            dh, room[DU], batch, steps, width, inner, sizes.state, flip,
        )  # fmt: skip
        if taps:
            _mix_backward(
                0, batch * items_of(steps), g[NORM], s[X], s[STATS], state + recent, resets, w[NORM], w[NORM_BIAS],
                w[TAPS], room[DU], room[NO_STATE] + recent, dy, dx, room[DSTATE] + recent,
                batch, steps, width, taps, sizes.state, flip,
            )  # fmt: skip
        else:
            _norm_backward(
                0, items_of(rows), g[NORM], s[X], s[STATS], w[NORM], w[NORM_BIAS], room[DU], dy, dx, 0, rows, width,
                flip,
            )  # fmt: skip
        dy, dx = dx, dy
    weight_gradient(matmul, gradients[EMBED], dy, inputs, rows, sizes.inputs, width, like)
    bias_gradient(gradients[EMBED_BIAS], dy, room[PARTIAL], rows, width, like)
