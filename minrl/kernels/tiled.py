"""A layer's matrix product and its recurrence on a CPU, tile by tile: the gates of a tile stay in the cache.

The numbers are those of one product followed by one scan; only the gradients to the weights are summed in another
order. The gradients to the gates are never written to memory whole. It is for one thread: several would wait for each
other at every tile.

Shapes: B batch, T time, D inputs of the layer, P parts of the gates, H inner width, C = PH columns.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minrl.kernels import cpu
from minrl.kernels.cpu_act_watch import runs_alone
from minrl.kernels.cpu_product import input_gradient_into, linear_into, may_run

# A tile has about so many numbers of gates, and half as many on the way back, where each comes with its gradient:
# fewer, and the product runs slower; more, and they no longer fit the cache.
TILE = 1 << 18
# With fewer rows a row of a product would be rounded otherwise.
_FEWEST_ROWS = 8


class Options(NamedTuple):
    """Of the recurrence: P, the map of the candidate, and whether decays are signed."""

    parts: int
    candidate: str
    signed: bool


def takes(layer: nn.Module, x: Tensor) -> bool:
    """Whether the layer and its recurrence over x (B, T, D) are worth going through in tiles, and nobody watches."""
    # First whether it is recorded: a graph must not depend on how large x is.
    if not runs_alone() or torch.get_num_threads() > 1 or type(layer) is not nn.Linear or x.dim() != 3:
        return False
    is_large = x.shape[0] * x.shape[1] * layer.out_features >= 4 * TILE
    return is_large and not x.is_complex() and may_run(layer, x)


def gated_layer(
    layer: nn.Linear, x: Tensor, state: Tensor | None, reset: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """The recurrence of the gates that `layer` makes of x (B, T, D): h (B, T, H), the last state (B, H)."""
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *layer.parameters(), state))
    h, last = _TiledLayer.apply(x, layer.weight, layer.bias, state, reset, options, learns)  # type: ignore[no-untyped-call]
    return h, last


class _Tile(NamedTuple):
    """Rows `first` to `end` of B * T: `batch` sequences from number `row` on, of each the steps from `step` on."""

    first: int
    end: int
    row: int
    batch: int
    step: int

    def of_rows(self, x: Any, width: int = 1) -> Any:
        """The tile of x (B * T * width); nothing of an x that is not there."""
        return x[self.first * width : self.end * width]

    def of_sequences(self, x: Any, width: int) -> Any:
        """The tile's rows of x (B * width)."""
        return x[self.row * width : (self.row + self.batch) * width]

    def entering(self, state: Any, h: Any, width: int) -> Any:
        """The memory before the first step, from h (B * T * width)."""
        if self.step:
            return h[(self.first - 1) * width : self.first * width]
        return self.of_sequences(state, width)

    def sizes(self, width: int) -> tuple[int, int, int, int]:
        """What a kernel is told: the items to do, steps, width."""
        return 0, self.batch * cpu._loops().blocks_of(width), (self.end - self.first) // self.batch, width


class _TiledLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, reset: Tensor | None,
        options: Options, learns: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, steps, _ = x.shape
        rows, columns = x.reshape(batch * steps, -1), weight.shape[0]
        tiles, width = _tiles(batch, steps, TILE // columns), columns // options.parts
        # Without a way back the gates of one tile are all that is ever there.
        gates = x.new_empty(batch * steps if learns else max(tile.end - tile.first for tile in tiles), columns)
        h, last = x.new_empty(batch, steps, width), x.new_empty(batch, width)
        kernel = cpu._loops().gated_forward(options.parts, cpu._candidate(options.candidate))
        before, resets, flip = cpu._flat(state, x), cpu._flags(reset), cpu._flag(options.signed, x)
        all_gates, all_h, all_last = map(cpu._flat, (gates, h, last))
        for tile in tiles:
            place = tile if learns else _Tile(0, tile.end - tile.first, 0, 1, 0)
            linear_into(rows[tile.first : tile.end], weight, bias, gates[place.first : place.end])
            kernel(
                place.of_rows(all_gates, columns), tile.entering(before, all_h, width), tile.of_rows(resets),
                tile.of_rows(all_h, width), tile.of_sequences(all_last, width), *tile.sizes(width), flip,
            )  # fmt: skip
        if learns:
            ctx.save_for_backward(rows, weight, state, reset, gates, h)
        ctx.options, ctx.shape = options, x.shape
        return h, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, state, reset, gates, h = ctx.saved_tensors
        (batch, steps, width), columns = h.shape, weight.shape[0]
        tiles = _tiles(batch, steps, TILE // (2 * columns))
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        dx, dweight = torch.empty_like(rows) if of_x else None, torch.zeros_like(weight) if of_weight else None
        dbias = weight.new_zeros(columns) if of_bias else None
        room = gates.new_empty(max(tile.end - tile.first for tile in tiles), columns)
        dlast, dstate = gradients[1].clone(memory_format=torch.contiguous_format), h.new_empty(batch, width)
        kernel = cpu._loops().gated_backward(ctx.options.parts, cpu._candidate(ctx.options.candidate))
        before, resets, flip = cpu._flat(state, h), cpu._flags(reset), cpu._flag(ctx.options.signed, h)
        all_gates, all_h, all_dh = map(cpu._flat, (gates, h, gradients[0]))
        all_dgates, all_dlast, all_dstate = map(cpu._flat, (room, dlast, dstate))
        for tile in reversed(tiles):
            dgates, x = room[: tile.end - tile.first], rows[tile.first : tile.end]
            kernel(
                tile.of_rows(all_gates, columns), tile.entering(before, all_h, width), tile.of_rows(resets),
                tile.of_rows(all_h, width), tile.of_rows(all_dh, width), tile.of_sequences(all_dlast, width),
                all_dgates[: dgates.numel()], tile.of_sequences(all_dstate, width), *tile.sizes(width), flip,
            )  # fmt: skip
            if tile.step:
                tile.of_sequences(all_dlast, width)[:] = tile.of_sequences(all_dstate, width)
            if dx is not None:
                input_gradient_into(dgates, weight, dx[tile.first : tile.end])
            if dweight is not None:
                dweight.addmm_(dgates.t(), x)
            if dbias is not None:
                dbias += dgates.sum(0)
        dx = None if dx is None else dx.view(ctx.shape)
        return dx, dweight, dbias, None if state is None else dstate, None, None, None


def _tiles(batch: int, steps: int, rows: int) -> list[_Tile]:
    """All rows in order, about `rows` to a tile: whole sequences, or else even pieces of each."""
    rows = max(rows, 2 * _FEWEST_ROWS)
    if steps <= rows:
        count = rows // steps
        firsts = range(0, batch, count)
        return [_Tile(b * steps, min(b + count, batch) * steps, b, min(count, batch - b), 0) for b in firsts]
    pieces = -(-steps // rows)
    cuts = list(pairwise(steps * piece // pieces for piece in range(pieces + 1)))
    return [_Tile(b * steps + start, b * steps + end, b, 1, start) for b in range(batch) for start, end in cuts]
