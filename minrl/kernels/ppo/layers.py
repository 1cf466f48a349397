"""Forward and backward pass of a trunk of recurrent layers, one on the other, inside the compiled update.

Shapes: B segments, T time, N = B * T rows, H width, S state size of the whole policy.
"""

from typing import Any

from minrl.kernels.jit.compile import inlined
from minrl.kernels.ppo.backbone import DX
from minrl.kernels.ppo.cells import BACKWARD, FORWARD, PER_CELL, SAVED_OF_CELL, run
from minrl.kernels.ppo.matmul import lanes_of

# What a layer keeps: that of its cell, and h.
H, SAVED = range(SAVED_OF_CELL, SAVED_OF_CELL + 2)


@inlined
def forward(
    weights: Any, saved: Any, room: Any, inputs: int, resets: int, state: int, latent: int, batch: int, steps: int,
    sizes: Any, flip: Any,
) -> None:  # fmt: skip
    """Compute inputs (N, ·), resets (B, T) and each layer's state in (B, S) -> latent (N, H)."""
    x, columns, width, of_layer = inputs, sizes.inputs, sizes.width, sizes.memory * lanes_of(flip)[1]
    for i in range(sizes.depth):
        w, s = weights[i * PER_CELL : (i + 1) * PER_CELL], saved[i * SAVED : (i + 1) * SAVED]
        h = latent if i == sizes.depth - 1 else s[H]
        run(
            room[FORWARD], w, w, s, room, x, resets, state + i * of_layer, h, 0, 0, batch, steps, columns, width,
            sizes.state, flip,
        )  # fmt: skip
        x, columns = h, width


@inlined
def backward(
    weights: Any, gradients: Any, saved: Any, room: Any, inputs: int, resets: int, state: int, latent: int,
    dlatent: int, batch: int, steps: int, sizes: Any, flip: Any,
) -> None:  # fmt: skip
    """Compute the gradients to the weights from those to the latents (N, H)."""
    width, dh, of_layer = sizes.width, dlatent, sizes.memory * lanes_of(flip)[1]
    for i in range(sizes.depth - 1, -1, -1):
        w, g = weights[i * PER_CELL : (i + 1) * PER_CELL], gradients[i * PER_CELL : (i + 1) * PER_CELL]
        s = saved[i * SAVED : (i + 1) * SAVED]
        h, x, columns, dx = latent if i == sizes.depth - 1 else s[H], inputs, sizes.inputs, 0
        if i:
            x, columns, dx = saved[(i - 1) * SAVED + H], width, room[DX]
        run(
            room[BACKWARD], w, g, s, room, x, resets, state + i * of_layer, h, dh, dx, batch, steps, columns, width,
            sizes.state, flip,
        )  # fmt: skip
        dh = dx
