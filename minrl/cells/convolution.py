"""The short causal convolution before a recurrence, with its last inputs as its memory.

Shapes: B batch, T time, D width, K taps.
"""

import torch
from torch import Tensor, nn

from minrl.cells.base import Cell
from minrl.cells.nan_masks import contained


class ShortConvolution(Cell):
    """A depthwise causal convolution: y_t = bias + sum_k weight_k * x_{t-k}, k < K, within an episode.

    Without it a minGRU layer cannot copy what it saw a few steps ago. The state holds the last K - 1 inputs,
    oldest first.

    Args:
        width: D.
        taps: K, at least 2.
    """

    def __init__(self, width: int, taps: int = 4) -> None:
        super().__init__()
        if taps < 2:
            raise ValueError(f"a convolution needs at least 2 taps, got {taps} (0 leaves it out of a block)")
        self.width = width
        self.taps = taps
        self.state_size = (taps - 1) * width
        bound = taps**-0.5
        self.weight = nn.Parameter(torch.empty(taps, width).uniform_(-bound, bound))  # oldest first
        self.bias = nn.Parameter(torch.zeros(width))

    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Cell.scan`."""
        return self(x, state, reset)  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As `Cell.step`."""
        return self(x, state)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Cell.forward`."""
        if state is None:
            state = self.initial_state(x.shape[0])
        if x.dim() == 2:
            window = torch.cat([state, x.to(state.dtype)], dim=1)
            y = (window.unflatten(1, (self.taps, self.width)) * self.weight).sum(1) + self.bias
            return y.to(x.dtype), window[:, self.width :]
        return self._scan(x, state, reset)

    @contained
    def _scan(self, x: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        return causal_convolution(x, self.weight, self.bias, state, reset)


def causal_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Convolve x (B, T, D) with `weight` (K, D), oldest tap first, from the last inputs `state` (B, (K - 1) * D).

    Returns:
        y (B, T, D) and the last K - 1 inputs of the episode that goes on, (B, (K - 1) * D).
    """
    past, steps = weight.shape[0] - 1, x.shape[1]
    window = torch.cat([state.unflatten(1, (past, x.shape[2])), x.to(state.dtype)], dim=1)
    y = torch.addcmul(bias, window[:, past:], weight[past])
    # A tap reaches over `lag` steps; it counts where none of them opened an episode.
    closed = None if reset is None else _steps_since_reset(reset, past)
    for lag in range(1, past + 1):
        tap = window[:, past - lag : past - lag + steps]
        if closed is not None:
            tap = tap.masked_fill((closed < lag).unsqueeze(-1), 0.0)
        y = torch.addcmul(y, tap, weight[past - lag])
    last = window[:, steps:]
    if closed is not None:
        # What lies `lag` steps before the next step is kept where no later step opened an episode.
        lags = torch.arange(past, 0, -1, device=x.device)
        last = last.masked_fill((closed[:, -1:] < lags - 1).unsqueeze(-1), 0.0)
    return y.to(x.dtype), last.flatten(1)


def _steps_since_reset(reset: Tensor, limit: int) -> Tensor:
    """How many steps ago the episode of each step opened, at most `limit`: (B, T) bool -> (B, T) int.

    Before the first reset the episode is taken to be older than `limit`.
    """
    steps = torch.full_like(reset, limit, dtype=torch.int64)
    for ago in reversed(range(min(limit, reset.shape[1]))):
        steps[:, ago:] = torch.where(reset[:, : reset.shape[1] - ago], ago, steps[:, ago:])
    return steps
