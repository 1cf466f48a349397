"""A layer's matmul and its recurrence on a CPU, tile by tile: the gates of a tile stay in the cache.

Results equal one matmul followed by one scan; only the gradients to the weights are summed in another order. The
gradients to the gates never exist as a whole. Threads take whole sequences and synchronise at the end: at every tile
they would mostly wait for each other.

Shapes: B batch, T time, D inputs of the layer, P parts of the gates, H inner width, C = PH columns.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.kernels import differentiable
from minrl.kernels.guard import gradients_are_differentiated, runs_alone
from minrl.kernels.jit import lone_threads
from minrl.kernels.jit.operators import flat, reset_flags, scalar
from minrl.kernels.matmul import input_gradient_into, library, linear_into, may_run
from minrl.kernels.scan import cpu
from minrl.kernels.scan.gates import Candidate

# Elements of gates in a tile, half as many in the backward pass, where each has its gradient beside it: with fewer the
# matmul is slower, more do not fit the cache.
TILE = 1 << 18
# With fewer rows a row of a matmul is rounded differently.
_FEWEST_ROWS = 8
# More threads would wait for the interpreter's lock. Measured with two.
_MOST_THREADS = 4
# Least tiles of each thread, so that their work is even.
_FEWEST_SEQUENCES = 4


class Options(NamedTuple):
    """Options of the recurrence: P, the map of the candidate, and whether decays are signed."""

    parts: int
    candidate: Candidate
    signed: bool


def takes(layer: nn.Module, x: Tensor) -> bool:
    """Return True if tiles are faster for the layer over x (B, T, D), and torch's operations are not watched."""
    # Recording is tested first: a graph must not depend on the size of x.
    if not runs_alone() or type(layer) is not nn.Linear or x.dim() != 3:
        return False
    threads = _threads(x.shape[0])
    tiles = x.shape[0] * x.shape[1] * layer.out_features / TILE
    is_large = tiles >= (4 if threads == 1 else 8 * threads)
    return is_large and threads == torch.get_num_threads() and not x.is_complex() and may_run(layer, x)


def gated_layer(
    layer: nn.Linear, x: Tensor, state: Tensor | None, reset: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Compute the recurrence of `layer(x)`, x (B, T, D): h (B, T, H), the last state (B, H)."""
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *layer.parameters(), state))
    h, last = _TiledLayer.apply(x, layer.weight, layer.bias, state, reset, options, learns)  # type: ignore[no-untyped-call]
    return h, last


class _Tile(NamedTuple):
    """Rows `first` to `end` of B * T: `batch` sequences from `row` on, each with its steps from `step` on."""

    first: int
    end: int
    row: int
    batch: int
    step: int

    def of_rows(self, x: Any, width: int = 1) -> Any:
        """Return the tile of x (B * T * width)."""
        return x[self.first * width : self.end * width]

    def of_sequences(self, x: Any, width: int) -> Any:
        """Return the tile's rows of x (B * width)."""
        return x[self.row * width : (self.row + self.batch) * width]

    def entering(self, state: Any, h: Any, width: int) -> Any:
        """Return the state before the first step, from h (B * T * width)."""
        if self.step:
            return h[(self.first - 1) * width : self.first * width]
        return self.of_sequences(state, width)

    def sizes(self, width: int) -> tuple[int, int, int, int]:
        """Return the arguments of a kernel: the items to do, steps, width."""
        return 0, self.batch * cpu._loops().blocks_of(width), (self.end - self.first) // self.batch, width


class _TiledLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, reset: Tensor | None,
        options: Options, learns: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, steps, _ = x.shape
        rows, columns = x.reshape(batch * steps, -1), weight.shape[0]
        width = columns // options.parts
        # Without a backward pass only the gates of one tile exist at a time.
        gates = x.new_empty(batch * steps, columns) if learns else None
        h, last = x.new_empty(batch, steps, width), x.new_empty(batch, width)
        kernel = cpu._loops().gated_forward(options.parts, cpu._candidate(options.candidate))
        before, resets, flip = flat(state, x), reset_flags(reset), scalar(options.signed, x)
        all_h, all_last = map(flat, (h, last))

        def go(tiles: list[_Tile]) -> None:
            room = x.new_empty(_most_rows(tiles), columns) if gates is None else gates
            all_gates = flat(room)
            for tile in tiles:
                place = _Tile(0, tile.end - tile.first, 0, 1, 0) if gates is None else tile
                linear_into(rows[tile.first : tile.end], weight, bias, room[place.first : place.end])
                kernel(
                    place.of_rows(all_gates, columns), tile.entering(before, all_h, width), tile.of_rows(resets),
                    tile.of_rows(all_h, width), tile.of_sequences(all_last, width), *tile.sizes(width), flip,
                )  # fmt: skip

        library()  # chosen once, before threads could each measure for themselves
        lone_threads.each(go, _shares(batch, steps, TILE // columns))
        if learns:
            ctx.save_for_backward(x, weight, bias, state, reset, gates, h)
        ctx.options = options
        return h, last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, state, reset, gates, h = ctx.saved_tensors
        if gradients_are_differentiated(*gradients):
            inputs = x, weight, bias, state, reset, ctx.options, True
            return tuple(differentiable.gradients_of(_in_torch, inputs, ctx.needs_input_grad, gradients))
        (batch, steps, width), columns = h.shape, weight.shape[0]
        rows = x.reshape(batch * steps, -1)
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        dx = torch.empty_like(rows) if of_x else None
        dlast, dstate = gradients[1].clone(memory_format=torch.contiguous_format), h.new_empty(batch, width)
        kernel = cpu._loops().gated_backward(ctx.options.parts, cpu._candidate(ctx.options.candidate))
        before, resets, flip = flat(state, h), reset_flags(reset), scalar(ctx.options.signed, h)
        all_gates, all_h, all_dh = map(flat, (gates, h, gradients[0]))
        all_dlast, all_dstate = map(flat, (dlast, dstate))

        def go(tiles: list[_Tile]) -> tuple[Tensor | None, Tensor | None]:
            room = gates.new_empty(_most_rows(tiles), columns)
            all_dgates = flat(room)
            dweight = torch.zeros_like(weight) if of_weight else None
            dbias = weight.new_zeros(columns) if of_bias else None
            for tile in reversed(tiles):
                dgates, inputs = room[: tile.end - tile.first], rows[tile.first : tile.end]
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
                    dweight.addmm_(dgates.t(), inputs)
                if dbias is not None:
                    dbias += dgates.sum(0)
            return dweight, dbias

        dweight, dbias = map(
            _total, zip(*lone_threads.each(go, _shares(batch, steps, TILE // (2 * columns))), strict=True)
        )
        dx = None if dx is None else dx.view(x.shape)
        return dx, dweight, dbias, None if state is None else dstate, None, None, None


def _in_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, reset: Tensor | None, options: Options,
    learns: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute `gated_layer` in torch's operations, which can be differentiated further."""
    parts, candidate, signed = options
    gates = F.linear(x, weight, bias)
    return differentiable.gated_scan(gates, state, reset, parts=parts, candidate=candidate, signed=signed)


def _total(parts: Iterable[Tensor | None]) -> Tensor | None:
    """Add the sums of the threads; None if they are not needed."""
    there = [part for part in parts if part is not None]
    return sum(there[1:], there[0]) if there else None


def _most_rows(tiles: list[_Tile]) -> int:
    return max(tile.end - tile.first for tile in tiles)


def _shares(batch: int, steps: int, rows: int) -> list[list[_Tile]]:
    """Return the tiles of each thread: whole sequences to each."""
    threads = _threads(batch)
    cuts = pairwise(batch * thread // threads for thread in range(threads + 1))
    return [_tiles(range(first, end), steps, rows) for first, end in cuts]


def _threads(batch: int) -> int:
    """Return torch's number of threads if splitting the sequences is worth it, else 1."""
    wanted = torch.get_num_threads()
    fits = _FEWEST_SEQUENCES * wanted <= batch and wanted <= _MOST_THREADS
    return wanted if fits and lone_threads.available() else 1


def _tiles(sequences: range, steps: int, rows: int) -> list[_Tile]:
    """Cut the sequences, in order, into tiles of about `rows` rows: whole sequences, or even pieces of each."""
    rows = max(rows, 2 * _FEWEST_ROWS)
    if steps <= rows:
        count = rows // steps
        firsts = sequences[::count]
        return [
            _Tile(b * steps, min(b + count, sequences.stop) * steps, b, min(count, sequences.stop - b), 0)
            for b in firsts
        ]
    pieces = -(-steps // rows)
    cuts = list(pairwise(steps * piece // pieces for piece in range(pieces + 1)))
    return [_Tile(b * steps + start, b * steps + end, b, 1, start) for b in sequences for start, end in cuts]
