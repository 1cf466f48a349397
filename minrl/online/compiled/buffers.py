"""Buffers of the compiled update, for the largest minibatch of a rollout.

Shapes: N rows and B segments of the largest minibatch, S state size.
"""

from typing import Any

import numpy as np

from minrl.online.compiled.layout import PolicyLayout
from minrl.online.compiled.memory import Arena, words


def block_buffers(layout: PolicyLayout, arena: Arena, rows: int, segments: int) -> Any:
    """Return the addresses of what all blocks of a trunk share, the matmul among it."""
    from minrl.kernels.ppo.matmul import product_address  # it imports numba

    wide = layout.width * 4 if layout.parts == 0 else layout.parts * layout.inner
    inner = layout.inner or layout.width
    biases = [layer.out_features for net in layout.heads for layer, _, _ in net]
    take, width, state = arena.take, layout.width, (segments, layout.state_size)
    return words(
        [
            take(rows, width), take(rows, width), take(rows, inner), take(rows, wide), take(rows, width),
            take(rows, width), take(rows, layout.hidden), take(rows, layout.hidden), take(_largest_weight(layout)),
            take(max(wide, width, layout.hidden, *biases)), take(*state), take(*state), take(*state),
            product_address(layout.arena.dtype),
        ]
    )  # fmt: skip


def _largest_weight(layout: PolicyLayout) -> int:
    """Return the elements of the largest transposed weight, with a margin after each row of an LSTM's."""
    from minrl.kernels.lstm.cpu_loops import MARGIN  # it imports numba

    margin = MARGIN * layout.width if layout.parts == 0 else 0
    return max(parameter.numel() for parameter, _ in layout.parameters) + margin


def kept_buffers(layout: PolicyLayout, arena: Arena, rows: int, segments: int) -> Any:
    """Return the addresses of what each trunk keeps for its backward pass."""
    return words([_kept(layout, arena, rows, segments) for _ in layout.trunks])


def _kept(layout: PolicyLayout, arena: Arena, rows: int, segments: int) -> list[int]:
    take, width, found = arena.take, layout.width, []
    if layout.parts == 0:
        for _ in range(layout.depth):
            found += [take(rows, 4 * width), take(rows, width), take(rows, width), take(segments, 2 * width)]
        return found
    x, inner, hidden = take(rows, width), layout.inner, layout.hidden
    for _ in range(layout.depth):
        stats, u, gates, h = take(rows, 2), take(rows, width), take(rows, layout.parts * inner), take(rows, inner)
        mixed, mlp_stats = take(rows, width), take(rows, 2)
        out = take(rows, width) if hidden else mixed
        found += [x, stats, u, gates, h, mixed, mlp_stats, take(rows, hidden), out]
        x = out
    return [*found, x, take(rows, 2)]


def minibatch_buffers(layout: PolicyLayout, arena: Arena, rows: int, segments: int) -> Any:
    """Return the addresses of a minibatch: its rows, latents, outputs and their gradients, sums and log_std."""
    take, log_std = arena.take, layout.log_std
    bytes_of = [int(arena.array(rows, dtype=np.uint8).ctypes.data) for _ in range(2)]
    widest = max(layer.in_features for net in layout.heads for layer, _, _ in net)
    latents = 2, rows, layout.width
    return words(
        [
            take(rows, layout.inputs), bytes_of[0], take(segments, layout.state_size), take(rows, layout.actions),
            take(4, rows), bytes_of[1], take(rows, layout.raw), take(*latents), take(*latents),
            *(take(rows) for _ in range(5)),
            take(rows, widest), take(rows, widest), layout.sums.ctypes.data,
            0 if log_std is None else log_std.data_ptr(), layout.dlog_std,
        ]
    )  # fmt: skip


def head_layers(layout: PolicyLayout, arena: Arena, rows: int) -> list[Any]:
    """Return the layers of the actor's head, the critic's, and of a linear critic, as the kernels know them."""
    front = [] if layout.front is None else [layout.front]
    nets = [_layers(net, arena, rows) for net in (*layout.heads, front)]
    return [nets[0], nets[1], nets[2][0] if front else np.zeros(nets[0].shape[1], np.int64)]


def _layers(net: Any, arena: Arena, rows: int) -> Any:
    return words(
        [
            (
                layer.weight.data_ptr(), 0 if layer.bias is None else layer.bias.data_ptr(), dweight, dbias,
                arena.take(rows, layer.out_features), layer.in_features, layer.out_features,
            )
            for layer, dweight, dbias in net
        ]
    )  # fmt: skip
