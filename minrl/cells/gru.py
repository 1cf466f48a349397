"""GRU (Cho et al., arXiv 1406.1078) in torch's convention, with resets inside the sequence.

Shapes: B batch, T time, D width, H inner width.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.base import Cell, hold_bias, inner_width, state_dtype
from minrl.cells.nan_masks import contained
from minrl.kernels.gru import cpu, reference
from minrl.kernels.guard import under_transform
from minrl.kernels.recurrence import takes


class GRU(Cell):
    """torch.nn.GRU of one layer with an optional wider inner state and a projection back.

    The recurrence feeds rounding back into its gates and therefore runs in the precision of the weights, also
    under autocast. `gru_layer` chooses how it runs.

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
            weights = self.gru.all_weights[0]
            x = x.to(weights[0].dtype)
            hidden, last = gru_layer(x, weights, None if state is None else state.to(x.dtype), reset)
        return self.down(hidden), last.to(state_dtype(last))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.gru.all_weights[0][0].dtype)
            h = torch.gru_cell(x, state.to(x.dtype), *self.gru.all_weights[0])
        return self.down(h), h.to(state_dtype(h))


def gru_layer(
    x: Tensor, weights: Sequence[Tensor], state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run a layer of `torch.nn.GRU` with resets inside.

    On a CPU one compiled loop runs it. Elsewhere, and without numba, one call of torch's GRU runs each piece of time in
    which no row resets, so that short episodes that start at different steps cost many calls.

    Args:
        x: (B, T, D) in the precision of the weights.
        weights: W_ih (3H, D), W_hh (3H, H) and, if there are biases, b_ih and b_hh (3H,): as in `all_weights`.
        state: (B, H) the initial h; None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        h (B, T, H) and the last h (B, H).
    """
    input_bias, bias = weights[2:] if len(weights) == 4 else (None, None)
    if under_transform():  # torch's GRU has no rule for vmap
        return reference.gru_scan(F.linear(x, weights[0], input_bias), weights[1], bias, state, reset)
    if takes(x):
        rows = F.linear(x.reshape(-1, x.shape[2]), weights[0], input_bias)
        h, last = cpu.gru_scan(rows.view(*x.shape[:2], -1), weights[1], bias, state, reset)
        return h, last
    h = x.new_zeros(x.shape[0], weights[1].shape[1]) if state is None else state
    outputs = []
    for first, end in pieces_without_reset(reset, x.shape[1]):
        if reset is not None:
            h = h.masked_fill(reset[:, first, None], 0.0)
        # One layer, no dropout, for training or not, one direction, batch first.
        options = (1, 0.0, torch.is_grad_enabled(), False, True)
        output, last = torch.gru(
            x[:, first:end], h.unsqueeze(0).contiguous(), list(weights), bias is not None, *options
        )
        outputs.append(output)
        h = last[0]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), h


def pieces_without_reset(reset: Tensor | None, steps: int) -> Iterator[tuple[int, int]]:
    """Cut time so that every reset (B, T) falls on the first step of a piece: (first, end) pairs.

    The cuts must be known before the pieces run: on a GPU this waits for `reset`.
    """
    cuts = [] if reset is None else reset[:, 1:].any(dim=0).nonzero().flatten().add(1).tolist()
    yield from zip([0, *cuts], [*cuts, steps], strict=True)
