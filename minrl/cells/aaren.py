"""Aaren, attention as a recurrent network (Feng et al., 2024, arXiv 2405.13956).

Shapes: B batch, T time, D width, N heads, E = D / N features of a head.
"""

import torch
from torch import Tensor, nn

from minrl.cells.base import Cell, state_dtype
from minrl.cells.nan_masks import contained
from minrl.cells.running_max import EMPTY, lagged, running_max
from minrl.scan import linear_scan


class Aaren(Cell):
    """Attention of one learned query to all steps of the episode so far: many outputs from one prefix scan.

    The scan is over triples m, u, w (section 3.2): m the largest score so far, w the sum of exp(score - m) and u the
    same sum over values. Here m comes first, in log-depth; u and w then are a linear recurrence.

    Args:
        width: D, of input and output.
        heads: number of attention heads; it must divide `width`.
    """

    def __init__(self, width: int, *, heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide the width, got heads={heads} and width={width}")
        self.width = width
        self.heads = heads
        self.state_size = 2 * heads + width
        self.token = nn.Parameter(torch.randn(width))  # the learned query of section 3.3
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a bias would move all scores alike
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is m (B, N) | u, w of each head (B, N * (E + 1)), w = 0 initially."""
        if state is None:
            state = x.new_zeros(x.shape[0], self.state_size, dtype=state_dtype(self.token))
        score, value = self._scored(x)
        first, sums = self._split(state)
        largest = running_max(score, None, first, reset)
        before = lagged(largest, first, reset, EMPTY)
        decay = torch.exp(before - largest).unsqueeze(-1).expand_as(value)
        drive = torch.exp(score - largest).unsqueeze(-1) * value
        sums, last = linear_scan(decay.flatten(2), drive.flatten(2), sums.flatten(1), reset)
        return self._out(sums.view_as(value), x), torch.cat([largest[:, -1], last], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        score, value = self._scored(x)
        first, sums = self._split(state)
        largest = torch.maximum(first, score).detach()
        sums = torch.exp(first - largest).unsqueeze(-1) * sums + torch.exp(score - largest).unsqueeze(-1) * value
        return self._out(sums, x), torch.cat([largest, sums.flatten(1)], dim=1)

    def _scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (…, N) and value | 1 (…, N, E + 1) in the state's precision."""
        precision, split = state_dtype(self.token), (self.heads, self.width // self.heads)
        query = self.query(self.token).to(precision).view(split)
        key = self.key(x).to(precision).unflatten(-1, split)
        value = self.value(x).to(precision).unflatten(-1, split)
        score = (query * key).sum(-1) * split[1] ** -0.5
        return score, torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Split a state into m (B, N), far below any score in the initial state, and u | w (B, N, E + 1)."""
        largest, sums = state.tensor_split([self.heads], dim=1)
        sums = sums.unflatten(1, (self.heads, -1))
        return torch.where(sums[..., -1] > 0, largest, EMPTY), sums

    def _out(self, sums: Tensor, x: Tensor) -> Tensor:
        y = sums[..., :-1] / sums[..., -1:]
        out: Tensor = self.out(y.flatten(-2).to(x.dtype))
        return out
