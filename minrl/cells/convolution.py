"""The short causal convolution before a recurrence, with its last inputs as its state.

Shapes: B batch, T time, D width, K taps.
"""

import torch
from torch import Tensor, nn

from minrl.cells.base import Cell
from minrl.cells.nan_masks import contained
from minrl.kernels.backbone.convolution import causal_convolution
from minrl.kernels.convolution import cpu
from minrl.kernels.recurrence import takes


class ShortConvolution(Cell):
    """A depthwise causal convolution: y_t = bias + sum_k weight_k * x_{t-k}, k < K, within an episode.

    Without it a minGRU layer cannot copy an input of a few steps ago. The state holds the last K - 1 inputs,
    oldest first.

    Args:
        width: D.
        taps: K, at least 2.
        compiled: whether `scan` is one compiled pass on a CPU, whose last digits are not those of torch's operations.
    """

    def __init__(self, width: int, taps: int = 4, *, compiled: bool = False) -> None:
        super().__init__()
        if taps < 2:
            raise ValueError(f"a convolution needs at least 2 taps, got {taps} (0 leaves it out of a block)")
        self.width = width
        self.taps = taps
        self.compiled = compiled
        self.state_size = (taps - 1) * width
        bound = taps**-0.5
        self.weight = nn.Parameter(torch.empty(taps, width).uniform_(-bound, bound))  # oldest first
        self.bias = nn.Parameter(torch.zeros(width))

    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does."""
        return self(x, state, reset)  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        return self(x, state)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan or step as `Cell.forward` does."""
        if state is None:
            state = self.initial_state(x.shape[0])
        if x.dim() == 2:
            window = torch.cat([state, x.to(state.dtype)], dim=1)
            y = (window.unflatten(1, (self.taps, self.width)) * self.weight).sum(1) + self.bias
            return y.to(x.dtype), window[:, self.width :]
        return self._scan(x, state, reset)

    @contained
    def _scan(self, x: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.compiled and x.dtype == state.dtype == self.weight.dtype and takes(x):
            y, last = cpu.causal_convolution(x, self.weight, self.bias, state, reset)
            return y, last
        return causal_convolution(x, self.weight, self.bias, state, reset)
