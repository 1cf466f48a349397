"""From features to actions of any flattened space: losses and likelihoods by part.

Shapes: ... any leading dimensions, D width, A flat action width, P columns of one part, K bins.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.data.spaces import AnySpace, leaves

ContinuousLoss = Literal["mse", "gaussian", "categorical"]


class Part(nn.Module, ABC):
    """The columns of one leaf of the action space."""

    inputs: int
    columns: slice
    whole: bool  # whether actions are whole numbers

    @abstractmethod
    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """What is minimised, summed over the part's columns: (..., inputs), (..., P) -> (...)."""

    @abstractmethod
    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """The mode, or a sample: (..., inputs) -> (..., P)."""

    @abstractmethod
    def center_of(self, raw: Tensor) -> Tensor:
        """The mean of continuous columns, with a gradient, or the logits of choices."""


class ActionHead(nn.Module):
    """A linear map from features, and one part for each leaf of the action space.

    Args:
        width: D.
        space: the action space; actions are its flattened rows.
        continuous: for the columns of Box spaces: squared error, Gaussian likelihood (diagonal, its width
            read off the features) or a categorical one over `bins` equal intervals.
        low, high: (A,) the range of each column: the space's bounds, or the data's where it has none.
        bins: K.

    Raises:
        ValueError: for an unknown `continuous`.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        width: int,
        space: AnySpace,
        *,
        low: Tensor,
        high: Tensor,
        continuous: ContinuousLoss = "mse",
        bins: int = 41,
    ) -> None:
        super().__init__()
        if continuous not in get_args(ContinuousLoss):
            names = ", ".join(get_args(ContinuousLoss))
            raise ValueError(f'action_loss must be one of {names}, got "{continuous}"')
        self.parts = nn.ModuleList()
        for leaf in leaves(space):
            size = leaf.columns.stop - leaf.columns.start
            part: Part
            if isinstance(leaf.space, spaces.Box):
                part = _box(continuous, low[leaf.columns], high[leaf.columns], bins)
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
        # Small first outputs, so that the first actions lie in the middle of the range.
        with torch.no_grad():
            self.linear.weight.mul_(0.1)
            self.linear.bias.zero_()

    def loss(self, features: Tensor, action: Tensor) -> Tensor:
        """(..., D), (..., A) -> (...): the sum over the action's columns, in float32 or float64."""
        raw = self._raw(features)
        losses = [p.loss(r, action[..., p.columns]) for p, r in zip(self._all(), raw, strict=True)]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)

    def act(self, features: Tensor, *, deterministic: bool = True) -> Tensor:
        """(..., D) -> (..., A): the most likely action, or a sample. Squared error has no spread to sample."""
        raw = self._raw(features)
        actions = [p.act(r, deterministic=deterministic) for p, r in zip(self._all(), raw, strict=True)]
        # The action remembered is the one that the environment gets.
        actions = [a.round() if p.whole else a for p, a in zip(self._all(), actions, strict=True)]
        return actions[0] if len(actions) == 1 else torch.cat(actions, dim=-1)

    def center(self, features: Tensor) -> Tensor:
        """What the actions of a policy scatter about, (..., D) -> (..., K): means of Box columns, logits of choices."""
        return torch.cat([p.center_of(r) for p, r in zip(self._all(), self._raw(features), strict=True)], dim=-1)

    def _raw(self, features: Tensor) -> tuple[Tensor, ...]:
        raw: Tensor = self.linear(features)
        raw = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
        return torch.split(raw, [part.inputs for part in self._all()], dim=-1)

    def _all(self) -> list[Part]:
        return [part for part in self.parts if isinstance(part, Part)]


def _box(continuous: ContinuousLoss, low: Tensor, high: Tensor, bins: int) -> Part:
    if continuous == "mse":
        return SquaredError(low, high)
    return Gaussian(low, high) if continuous == "gaussian" else Binned(low, high, bins)


class SquaredError(Part):
    """tanh onto the range, squared error in units of half the range (in DT's [-1, 1] its mean squared error)."""

    center: Tensor
    reach: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.inputs = len(low)
        self.register_buffer("center", (low + high) / 2)
        self.register_buffer("reach", ((high - low) / 2).clamp_min(1e-6))

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """As `Part.loss`; the mean over the columns, as Decision Transformer has it."""
        return (torch.tanh(raw) - (action - self.center) / self.reach).square().mean(-1)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """As `Part.act`."""
        return self.center_of(raw)

    def center_of(self, raw: Tensor) -> Tensor:
        """As `Part.center_of`: (..., P)."""
        return torch.addcmul(self.center, self.reach, torch.tanh(raw))


class Gaussian(Part):
    """A diagonal Gaussian about the tanh of the first half of its inputs, in units of half the range."""

    center: Tensor
    reach: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.size = len(low)
        self.inputs = 2 * self.size
        self.register_buffer("center", (low + high) / 2)
        self.register_buffer("reach", ((high - low) / 2).clamp_min(1e-6))

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """As `Part.loss`: negative log-likelihood in nats."""
        mean, log_std = self._moments(raw)
        error = (mean - (action - self.center) / self.reach) * torch.exp(-log_std)
        constant = 0.5 * math.log(2 * math.pi) + torch.log(self.reach)
        return (0.5 * error.square() + log_std + constant).sum(-1)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """As `Part.act`; samples are kept inside the range."""
        mean, log_std = self._moments(raw)
        if not deterministic:
            mean = (mean + torch.randn_like(mean) * torch.exp(log_std)).clamp(-1.0, 1.0)
        return torch.addcmul(self.center, self.reach, mean)

    def center_of(self, raw: Tensor) -> Tensor:
        """As `Part.center_of`: (..., P)."""
        return torch.addcmul(self.center, self.reach, self._moments(raw)[0])

    def _moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        # From exp(-5) of half the range, below which noise in the last digits would win the likelihood, to e times
        # half of it; exp(-0.5) at first. Smooth, so that a width at either end can still come back.
        log_std = -5.0 + 6.0 * torch.sigmoid(raw[..., self.size :] + math.log(3.0))
        return torch.tanh(raw[..., : self.size]), log_std


class Binned(Part):
    """Each column as a choice among K equal intervals; the action is the middle of the chosen one."""

    low: Tensor
    interval: Tensor

    def __init__(self, low: Tensor, high: Tensor, bins: int) -> None:
        super().__init__()
        if bins < 2:
            raise ValueError(f"a categorical likelihood needs at least 2 bins, got {bins}")
        self.size, self.bins = len(low), bins
        self.inputs = self.size * bins
        self.register_buffer("low", low)
        self.register_buffer("interval", ((high - low) / bins).clamp_min(1e-6))

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """As `Part.loss`: negative log-likelihood in nats."""
        logits = F.log_softmax(raw.unflatten(-1, (self.size, self.bins)), dim=-1)
        index = ((action - self.low) / self.interval).floor().long().clamp(0, self.bins - 1)
        return -logits.gather(-1, index.unsqueeze(-1)).squeeze(-1).sum(-1)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """As `Part.act`."""
        logits = raw.unflatten(-1, (self.size, self.bins))
        index = logits.argmax(-1) if deterministic else _draw(logits)
        return torch.addcmul(self.low, self.interval, index.to(raw.dtype) + 0.5)

    def center_of(self, raw: Tensor) -> Tensor:
        """As `Part.center_of`: (..., P)."""
        shares = torch.softmax(raw.unflatten(-1, (self.size, self.bins)), dim=-1)
        middles = torch.arange(self.bins, dtype=raw.dtype, device=raw.device) + 0.5
        return torch.addcmul(self.low, self.interval, shares @ middles)


class OneHot(Part):
    """One choice (Discrete) or several side by side (MultiDiscrete), as one-hot columns."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.inputs = sum(sizes)

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """As `Part.loss`: cross-entropy in nats."""
        pairs = zip(raw.split(self.sizes, -1), action.split(self.sizes, -1), strict=True)
        losses = [-(F.log_softmax(r, dim=-1) * a).sum(-1) for r, a in pairs]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """As `Part.act`."""
        choices = [r.argmax(-1) if deterministic else _draw(r) for r in raw.split(self.sizes, -1)]
        hot = [F.one_hot(c, n) for c, n in zip(choices, self.sizes, strict=True)]
        return torch.cat(hot, dim=-1).to(raw.dtype)

    def center_of(self, raw: Tensor) -> Tensor:
        """As `Part.center_of`: the logits, (..., inputs)."""
        return raw


class Binary(Part):
    """Independent yes or no columns (MultiBinary)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inputs = size

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """As `Part.loss`: cross-entropy in nats."""
        return F.binary_cross_entropy_with_logits(raw, action, reduction="none").sum(-1)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """As `Part.act`."""
        if deterministic:
            return (raw > 0).to(raw.dtype)
        return torch.bernoulli(torch.sigmoid(raw))

    def center_of(self, raw: Tensor) -> Tensor:
        """As `Part.center_of`: the logits, (..., inputs)."""
        return raw


def _draw(logits: Tensor) -> Tensor:
    """A category drawn from each row of logits: (..., K) -> (...)."""
    probabilities = torch.softmax(logits, dim=-1).flatten(0, -2)
    return torch.multinomial(probabilities, 1).reshape(logits.shape[:-1])
