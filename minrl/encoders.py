"""Observations on their way into a backbone: normalisation, and a stack without memory.

Shapes: B batch, T time, O flat observation width, D width.
"""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from minrl.cells import Cell
from minrl.data.episode import Episodes
from minrl.data.spaces import leaves


class Normalizer(nn.Module):
    """(x - mean) / std of each column over a data set; saved with the weights.

    One-hot and binary columns, and columns that never change, pass as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, episodes: Episodes) -> None:
        """Take mean and standard deviation from all steps of `episodes`, in float64."""
        mean = np.asarray(np.mean(episodes.observations, axis=0, dtype=np.float64))
        std = np.asarray(np.std(episodes.observations, axis=0, dtype=np.float64))
        fixed = std < 1e-6
        for leaf in leaves(episodes.observation_space):
            if not isinstance(leaf.space, spaces.Box):
                mean[leaf.columns], fixed[leaf.columns] = 0.0, True
        std[fixed] = 1.0
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def forward(self, x: Tensor) -> Tensor:
        """(..., O) -> (..., O)."""
        return (x - self.mean) / self.std


class Memoryless(Cell):
    """Residual MLP blocks that look at the present alone: the baseline that any memory must beat.

    Args:
        width: D.
        depth: number of blocks.
        mlp: hidden width of each MLP over D.
        dropout: probability on each residual branch.
    """

    def __init__(self, width: int, depth: int, *, mlp: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = round(mlp * width)
        self.width = width
        self.state_size = 0
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.Linear(hidden, width),
                nn.Dropout(dropout),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Cell.scan`; resets change nothing."""
        return self._run(x), x.new_zeros(x.shape[0], 0)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As `Cell.step`."""
        return self._run(x), state

    def _run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.norm(x)
        return out
