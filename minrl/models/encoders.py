"""Inputs of a backbone: normalisation of observations and previous actions, and an MLP stack without memory.

Shapes: B batch, T time, O flat observation width, A flat action width, D width.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells import Cell
from minrl.data.episode import Episodes
from minrl.data.moments import column_moments
from minrl.data.spaces import leaves
from minrl.data.task import Task


class Normalizer(nn.Module):
    """Normalisation (x - mean) / std of each column by a data set's statistics, saved with the weights.

    One-hot and binary columns pass unchanged. A constant column becomes 0, as its std is set to 1.
    """

    mean: Tensor
    std: Tensor
    rest: Tensor  # the mean's float32 rounding error, where it is more than 1e-5 of the spread

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("rest", torch.zeros(size))

    def fit(self, episodes: Episodes) -> None:
        """Compute mean and standard deviation over all steps of `episodes`, in float64 and in blocks."""
        found = column_moments(episodes.observations)
        mean, fixed = found.mean, found.constant
        for leaf in leaves(episodes.observation_space):
            if not isinstance(leaf.space, spaces.Box):
                mean[leaf.columns], fixed[leaf.columns] = 0.0, True
        rest = mean - mean.astype(np.float32)
        std = np.where(fixed, 1.0, found.std)
        self.mean.copy_(torch.from_numpy(mean))
        self.rest.copy_(torch.from_numpy(np.where(np.abs(rest) > 1e-5 * std, rest, 0.0)))
        self.std.copy_(torch.from_numpy(std))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., O); float64 is centred before it is cast to the precision of the statistics."""
        return self.centered(x) / self.std

    def centered(self, x: Tensor) -> Tensor:
        """Subtract the mean: (..., O) -> (..., O) in the precision of the statistics."""
        if x.dtype == torch.float64:
            return ((x - self.mean) - self.rest).to(self.mean.dtype)
        return (x - self.mean) - self.rest

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Checkpoints from before float64 observations kept their precision hold no rest.
        state_dict.setdefault(f"{prefix}rest", torch.zeros_like(self.rest))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class ActionUnits(nn.Module):
    """Standardisation (action - mean) / std of the previous action as an input, saved with the weights.

    Choices pass unchanged. A constant column becomes 0. A task without statistics, as in checkpoints from before
    actions were standardised, leaves actions in their own unit. With `bounds`, continuous columns are mapped from their
    bounds onto [-1, 1] instead.
    """

    def __init__(self, task: Task, *, bounds: bool = False) -> None:
        super().__init__()
        mean, std = task.action_mean, task.action_std
        self.standardizes = mean is not None and std is not None
        if mean is not None and std is not None:
            center, unit = torch.tensor(mean), torch.tensor(std, dtype=torch.float64)
            if bounds:
                low, high = task.action_limits()
                for leaf in leaves(task.action_space):
                    if isinstance(leaf.space, spaces.Box):
                        center[leaf.columns] = ((low + high) / 2)[leaf.columns]
                        unit[leaf.columns] = ((high.double() - low) / 2)[leaf.columns]
            self.register_buffer("mean", center)
            self.register_buffer("inverse", torch.where(unit > 0, 1 / unit, 0.0).to(torch.get_default_dtype()))

    def forward(self, action: Tensor) -> Tensor:
        """Standardise actions: (..., A) -> (..., A)."""
        if not self.standardizes:
            return action
        standard: Tensor = (action - self.get_buffer("mean")) * self.get_buffer("inverse")
        return standard

    def previous(self, action: Tensor, start: Tensor) -> Tensor:
        """Standardise recorded previous actions; 0 where an episode starts: (..., A), (...) bool -> (..., A)."""
        return self(action).masked_fill(start.unsqueeze(-1), 0.0) if self.standardizes else action


class Memoryless(Cell):
    """Residual MLP blocks over the current step, or over the last few: the baseline without memory.

    Args:
        width: D.
        depth: number of blocks.
        mlp: hidden width of each MLP over D.
        dropout: probability on each residual branch.
        frames: F, steps of the episode that are seen, the current one included; zeros before its start.
    """

    def __init__(self, width: int, depth: int, *, mlp: float = 4.0, dropout: float = 0.0, frames: int = 1) -> None:
        super().__init__()
        hidden = round(mlp * width)
        self.width, self.frames = width, frames
        self.state_size = (frames - 1) * width
        self.stack = nn.Linear(frames * width, width) if frames > 1 else None
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
        """Scan as `Cell.scan` does; the state is the inputs of the last F - 1 steps."""
        if self.stack is None:
            return self._run(x), x.new_zeros(x.shape[0], 0)
        rows, steps = x.shape[:2]
        if state is None:
            state = x.new_zeros(rows, self.state_size)
        inputs = torch.cat([state.view(rows, self.frames - 1, self.width).to(x.dtype), x], dim=1)
        if reset is None:
            reset = torch.zeros(rows, steps, dtype=torch.bool, device=x.device)
        episode = F.pad(reset.cumsum(1), (self.frames - 1, 0))  # (B, F - 1 + T), of the inputs before x 0
        current = episode[:, self.frames - 1 :]
        stacked = [
            torch.where((episode[:, i : i + steps] == current).unsqueeze(-1), inputs[:, i : i + steps], 0.0)
            for i in range(self.frames)
        ]
        last = torch.where((episode[:, steps:] == current[:, -1:]).unsqueeze(-1), inputs[:, steps:], 0.0)
        return self._run(self.stack(torch.cat(stacked, dim=-1))), last.flatten(1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        if self.stack is None:
            return self._run(x), state
        stacked = torch.cat([state.to(x.dtype), x], dim=1)
        return self._run(self.stack(stacked)), stacked[:, self.width :]

    def _run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.norm(x)
        return out
