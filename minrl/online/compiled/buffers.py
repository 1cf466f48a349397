"""Buffers of the compiled update, for the largest minibatch of a rollout.

Shapes: N rows and B segments of the largest minibatch, S state size.
"""

from typing import Any

import numpy as np

from minrl.kernels.kinds import GRU
from minrl.online.compiled.layout import PolicyLayout
from minrl.online.compiled.memory import Arena, words


def block_buffers(layout: PolicyLayout, arena: Arena, rows: int, segments: int) -> Any:
    """Return the addresses of what all cells and blocks of a trunk share, matmul and cell among it."""
    from minrl.kernels.ppo import cells  # they import numba
    from minrl.kernels.ppo.matmul import product_address

    kind, inner, take, width = layout.kind, layout.inner, arena.take, layout.width
    wide, state = kind.parts * inner, (segments, layout.state_size)
    biases = [layer.out_features for net in layout.heads for layer, _, _ in net]
    of_cell = [
        take(rows, wide), take(rows, wide) if kind.cell == GRU else 0, take(rows, inner) if kind.is_recurrent else 0,
        take(_largest_weight(layout)), take(max(wide, width, layout.hidden, *biases)), take(*state), take(*state),
        take(*state), product_address(layout.arena.dtype), *cells.addresses(kind, layout.arena.dtype),
    ]  # fmt: skip
    of_block = [
        take(rows, width), take(rows, width), take(rows, inner), take(rows, width), take(rows, width),
        take(rows, layout.hidden), take(rows, layout.hidden),
    ]  # fmt: skip
    return words([*of_cell, *of_block])


def _largest_weight(layout: PolicyLayout) -> int:
    """Return the elements of the largest transposed weight, with a margin after each row of the state's."""
    from minrl.kernels.lstm.cpu_loops import MARGIN  # it imports numba

    margin = MARGIN * layout.inner if layout.kind.is_recurrent else 0
    return max(parameter.numel() for parameter, _ in layout.parameters) + margin


def kept_buffers(layout: PolicyLayout, arena: Arena, rows: int, segments: int) -> Any:
    """Return the addresses of what each trunk keeps for its backward pass."""
    return words([_kept(layout, arena, rows, segments) for _ in layout.trunks])


def _kept(layout: PolicyLayout, arena: Arena, rows: int, segments: int) -> list[int]:
    take, width, inner, hidden, found = arena.take, layout.width, layout.inner, layout.hidden, []
    kind, x = layout.kind, 0 if layout.layers else arena.take(rows, width)
    for _ in range(layout.depth):
        gates, beside = take(rows, kind.parts * inner), take(rows, kind.kept * inner)
        entering = take(segments, kind.states * inner) if kind.is_recurrent else 0
        if layout.layers:
            found += [gates, beside, entering, take(rows, inner)]
            continue
        stats, u, h, mixed, mlp_stats = take(rows, 2), take(rows, width), take(rows, inner), take(rows, width), 0
        hidden_at, out = 0, mixed
        if hidden:
            mlp_stats, hidden_at, out = take(rows, 2), take(rows, hidden), take(rows, width)
        found += [gates, beside, entering, x, stats, u, h, mixed, mlp_stats, hidden_at, out]
        x = out
    return found if layout.layers else [*found, 0, 0, 0, x, take(rows, 2)]


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
