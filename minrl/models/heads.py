"""Action head: maps features to actions of any flattened space, with a loss for each part.

Shapes: ... any leading dimensions, D width, A flat action width, K bins.
"""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from minrl.data.masks.action_masks import additive_parts
from minrl.data.spaces import AnySpace, leaves
from minrl.data.task import Task
from minrl.models.head_parts import Binary, Binned, Gaussian, OneHot, Part, Scale, SquaredError

ContinuousLoss = Literal["mse", "gaussian", "categorical"]


class ActionHead(nn.Module):
    """Linear map from features to the inputs of one part for each leaf of the action space.

    Columns of Box spaces are predicted in units of their standard deviation over the data, whatever unit or bounds
    the space has: standard = (action - mean) / std.

    Args:
        width: D.
        space: the action space; actions are its flattened rows.
        continuous: for the columns of Box spaces: squared error ("mse"), a diagonal Gaussian whose standard deviation
            depends on the features, or a categorical distribution over `bins` equal intervals.
        low, high: (A,) the range of each column over the data.
        limits: bounds of actions, (A,) and (A,); `low` and `high` by default.
        mean, std: (A,) of each column over the data, std 0 for a constant one; without them outputs pass through tanh
            onto the range, as in checkpoints from before actions were standardised.
        bins: K.

    Raises:
        ValueError: for an unknown `continuous`.
    """

    def __init__(
        self,
        width: int,
        space: AnySpace,
        *,
        low: Tensor,
        high: Tensor,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        limits: tuple[Tensor, Tensor] | None = None,
        continuous: ContinuousLoss = "mse",
        bins: int = 41,
    ) -> None:
        super().__init__()
        self.space = space
        if continuous not in get_args(ContinuousLoss):
            names = ", ".join(get_args(ContinuousLoss))
            raise ValueError(f'action_loss must be one of {names}, got "{continuous}"')
        self.parts = nn.ModuleList()
        for leaf in leaves(space):
            size = leaf.columns.stop - leaf.columns.start
            part: Part
            if isinstance(leaf.space, spaces.Box):
                at = leaf.columns
                least, most = (low, high) if limits is None else limits
                scale = Scale(low[at], high[at], limits=(least[at], most[at]))
                if mean is not None and std is not None:
                    scale = replace(scale, mean=mean[at], std=std[at])
                part = _box(continuous, scale, bins)
            elif isinstance(leaf.space, spaces.Discrete):
                part = OneHot([size])
            elif isinstance(leaf.space, spaces.MultiDiscrete):
                part = OneHot([int(n) for n in leaf.space.nvec.reshape(-1)])
            else:
                part = Binary(size)
            part.columns = leaf.columns
            part.whole = isinstance(leaf.space, spaces.Box) and np.issubdtype(leaf.space.dtype, np.integer)
            self.parts.append(part)
        self.linear = nn.Linear(width, sum(part.inputs for part in self._all()))
        # Small initial outputs, so that the first actions lie in the middle of the range.
        with torch.no_grad():
            self.linear.weight.mul_(0.1)
            self.linear.bias.zero_()

    @property
    def loss_unit(self) -> str:
        """Unit of the loss, for reports; joined by + for a space of several kinds."""
        return " + ".join(dict.fromkeys(part.loss_unit for part in self._all()))

    def loss(self, features: Tensor, action: Tensor, masks: Tensor | None = None) -> Tensor:
        """Compute the loss summed over the action's columns: (..., D), (..., A) -> (...), in float32 or float64.

        With `masks` (..., M) choices are likely among the allowed ones.
        """
        raw = self._raw(features, masks)
        losses = [p.loss(r, action[..., p.columns]) for p, r in zip(self._all(), raw, strict=True)]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)

    def act(self, features: Tensor, *, deterministic: bool = True, masks: Tensor | None = None) -> Tensor:
        """Return the mode, or a sample: (..., D) -> (..., A). With squared error both are the mean.

        With `masks` (..., M) choices are among the allowed ones.
        """
        raw = self._raw(features, masks)
        actions = [p.act(r, deterministic=deterministic) for p, r in zip(self._all(), raw, strict=True)]
        # Rounded here, so that the previous action as an input equals what the environment gets.
        actions = [a.round() if p.whole else a for p, a in zip(self._all(), actions, strict=True)]
        return actions[0] if len(actions) == 1 else torch.cat(actions, dim=-1)

    def center(self, features: Tensor) -> Tensor:
        """Return means of Box columns and logits of choices: (..., D) -> (..., K)."""
        return torch.cat([p.center_of(r) for p, r in zip(self._all(), self._raw(features), strict=True)], dim=-1)

    def _raw(self, features: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
        raw: Tensor = self.linear(features)
        raw = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
        parts = torch.split(raw, [part.inputs for part in self._all()], dim=-1)
        if masks is None:
            return parts
        added = additive_parts(self.space, masks)
        return tuple(part if more is None else part + more for part, more in zip(parts, added, strict=True))

    def _all(self) -> list[Part]:
        return [part for part in self.parts if isinstance(part, Part)]


def head_for(task: Task, width: int, continuous: ContinuousLoss, *, tanh: bool = False) -> ActionHead:
    """Build the head of an agent of width D that learns from the task's data set.

    With `tanh`, outputs for Box spaces pass through tanh onto the bounds of actions, as in Decision Transformer.
    """
    if tanh:
        low, high = task.action_limits()
        return ActionHead(width, task.action_space, low=low, high=high, continuous=continuous)
    low, high = torch.tensor(task.action_low), torch.tensor(task.action_high)
    mean, std = (None if x is None else torch.tensor(x) for x in (task.action_mean, task.action_std))
    limits = None if mean is None else task.action_limits()
    return ActionHead(
        width, task.action_space, low=low, high=high, mean=mean, std=std, limits=limits, continuous=continuous
    )


def _box(continuous: ContinuousLoss, scale: Scale, bins: int) -> Part:
    if continuous == "categorical":
        return Binned(scale.low, scale.high, bins)
    return SquaredError(scale) if continuous == "mse" else Gaussian(scale)
