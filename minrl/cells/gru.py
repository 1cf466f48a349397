"""GRU (Cho et al., arXiv 1406.1078) in torch's convention, with resets inside the sequence.

Shapes: B batch, T time, D width, H inner width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minrl.cells.base import Cell, hold_bias, inner_width, state_dtype
from minrl.cells.nan_masks import contained


class GRU(Cell):
    """torch.nn.GRU of one layer with an optional wider inner state and a projection back.

    One call of `torch.nn.GRU` runs each piece of time in which no row resets, so short episodes that start at
    different steps cost many calls. The recurrence feeds rounding back into its gates and
    therefore runs in the precision of the weights, also under autocast.

    Args:
        width: D, of input and output.
        expand: H / D; a projection back to D follows where H is not D.
        hold: initial log-odds of keeping the state at a step, spread over H from the first to the second.
        bias: of the gates; without it `hold` has no effect.
    """

    reads_back = True  # where the resets are

    def __init__(
        self,
        width: int,
        *,
        expand: float = 1.0,
        hold: tuple[float, float] = (1.0, 2.5),
        bias: bool = True,
    ) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        self.width = width
        self.state_size = inner
        self.gru = nn.GRU(width, inner, bias=bias, batch_first=True)  # reset gate | update gate | candidate
        self.down = nn.Identity() if inner == width else nn.Linear(inner, width, bias=False)
        if bias:
            _, _, input_bias, hidden_bias = self.gru.all_weights[0]
            with torch.no_grad():
                # torch's update gate is the share of the state that is kept; its two biases add up.
                input_bias[inner : 2 * inner] = hold_bias(inner, hold)
                hidden_bias[inner : 2 * inner] = 0.0

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is h (B, H)."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.gru.all_weights[0][0].dtype)
            h = x.new_zeros(x.shape[0], self.state_size) if state is None else state.to(x.dtype)
            outputs = []
            for first, end in pieces_without_reset(reset, x.shape[1]):
                if reset is not None:
                    h = h.masked_fill(reset[:, first, None], 0.0)
                output, last = self.gru(x[:, first:end], h.unsqueeze(0))
                outputs.append(output)
                h = last[0]
        hidden = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return self.down(hidden), h.to(state_dtype(h))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.gru.all_weights[0][0].dtype)
            h = torch.gru_cell(x, state.to(x.dtype), *self.gru.all_weights[0])
        return self.down(h), h.to(state_dtype(h))


def pieces_without_reset(reset: Tensor | None, steps: int) -> Iterator[tuple[int, int]]:
    """Cut time so that every reset (B, T) falls on the first step of a piece: (first, end) pairs.

    The cuts must be known before the pieces run: on a GPU this waits for `reset`.
    """
    cuts = [] if reset is None else reset[:, 1:].any(dim=0).nonzero().flatten().add(1).tolist()
    yield from zip([0, *cuts], [*cuts, steps], strict=True)
