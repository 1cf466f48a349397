"""Aaren, attention as a recurrent network (Feng et al., 2024, arXiv 2405.13956).

Shapes: B batch, T time, D width, N heads, E = D / N features of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.base import Cell, state_dtype
from minrl.cells.nan_masks import contained
from minrl.cells.running_max import EMPTY, lagged, running_max
from minrl.scan import linear_scan


class Aaren(Cell):
    """Attention of one learned query to all steps of the episode so far: many outputs from one prefix scan.

    The scan is over triples m, u, w (section 3.2): m the largest score so far, w the sum of exp(score - m) and u the
    same sum over values. Here m comes first, in log-depth; u and w then are a linear recurrence.

    u and w grow with the episode while each step adds the same, so that float32 drops ever more of it: 4e-5 of the
    output after 1,000,000 steps. The state holds what was dropped beside the sums (Kahan, 1965).

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
        self.state_size = heads + 2 * (heads + width)
        self.token = nn.Parameter(torch.randn(width))  # the learned query of section 3.3
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a bias would move all scores alike
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does.

        The state is m (B, N) | u, w of each head (B, N * (E + 1)), w = 0 initially | what u and w lack.
        """
        score, value = self._scored(x)
        if state is None:
            first = score.new_full(score[:, 0].shape, EMPTY)
        else:
            first, before, lacking = self._split(state)
        largest = running_max(score, None, first, reset)
        decay = torch.exp(lagged(largest, first, reset, EMPTY) - largest).unsqueeze(-1).expand_as(value)
        drive = torch.exp(score - largest).unsqueeze(-1) * value
        sums, last = linear_scan(decay.flatten(2), drive.flatten(2), None, reset)
        sums, last = sums.view_as(value), last.view_as(value[:, 0])
        rest = torch.zeros_like(last)
        if state is not None:
            # From zero and added at the end: a sum over one call is small enough to lose little.
            carried = torch.exp(first.unsqueeze(1) - largest)
            if reset is not None:
                carried = torch.where(reset.cumsum(dim=1).unsqueeze(-1) > 0, 0.0, carried)
            sums = torch.addcmul(sums, carried.unsqueeze(-1), (before + lacking).unsqueeze(1))
            last, rest = _added(carried[:, -1], before, lacking, last)
        return self._out(sums, x), torch.cat([largest[:, -1], torch.stack([last, rest], 1).flatten(1)], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        score, value = self._scored(x)
        first, before, lacking = self._split(state)
        largest = torch.maximum(first, score).detach()
        drive = torch.exp(score - largest).unsqueeze(-1) * value
        sums, rest = _added(torch.exp(first - largest), before, lacking, drive)
        return self._out(sums, x), torch.cat([largest, torch.stack([sums, rest], 1).flatten(1)], dim=1)

    def _scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (…, N) and value | 1 (…, N, E + 1) in the state's precision."""
        precision, split = state_dtype(self.token), (self.heads, self.width // self.heads)
        query = self.query(self.token).to(precision).view(split)
        key = self.key(x).to(precision).view(*x.shape[:-1], *split)
        value = self.value(x).to(precision).view(*x.shape[:-1], *split)
        score = (query * key).sum(-1) * split[1] ** -0.5
        return score, F.pad(value, (0, 1), value=1.0)

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split a state into m (B, N), far below any score in the initial state, u | w (B, N, E + 1) and its rest."""
        largest, both = state.tensor_split([self.heads], dim=1)
        sums, rest = both.view(-1, 2, self.heads, self.width // self.heads + 1).unbind(1)
        return torch.where(sums[..., -1] > 0, largest, EMPTY), sums, rest

    def _out(self, sums: Tensor, x: Tensor) -> Tensor:
        y = sums[..., :-1] / sums[..., -1:]
        out: Tensor = self.out(y.flatten(-2).to(x.dtype))
        return out


def _added(decay: Tensor, before: Tensor, rest: Tensor, drive: Tensor) -> tuple[Tensor, Tensor]:
    """Compute decay * (before + rest) + drive and what rounding took from it: (B, N) and thrice (B, N, E + 1)."""
    decay = decay.unsqueeze(-1)
    kept, added = decay * before, torch.addcmul(drive, decay, rest)
    sums = kept + added
    return sums, added - (sums - kept)
