"""Parts of the action head: a distribution or regression for each leaf of the action space.

Shapes: ... any leading dimensions, P columns of one part, K bins.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Scale:
    """Range and standard deviation of the columns of one Box over the data, (P,) each; see `ActionHead`."""

    low: Tensor
    high: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None
    limits: tuple[Tensor, Tensor] | None = None


class Part(nn.Module, ABC):
    """Head of one leaf of the action space, fed by its share of the linear map's outputs."""

    inputs: int
    columns: slice
    whole: bool  # True if actions are whole numbers
    loss_unit: str = "nats"

    @abstractmethod
    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """Compute the loss, summed over the part's columns: (..., inputs), (..., P) -> (...)."""

    @abstractmethod
    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """Return the mode, or a sample: (..., inputs) -> (..., P)."""

    @abstractmethod
    def center_of(self, raw: Tensor) -> Tensor:
        """Return the mean of continuous columns, with gradient, or the logits of choices."""


class Scaled(Part):
    """Part whose columns are center + reach * standard, standard being the linear map's output or its tanh."""

    center: Tensor
    reach: Tensor

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.size, self.squashed = len(scale.low), scale.mean is None
        if scale.mean is None or scale.std is None:
            self.register_buffer("center", (scale.low + scale.high) / 2)
            self.register_buffer("reach", ((scale.high - scale.low) / 2).clamp_min(1e-6))
        else:
            self.register_buffer("center", scale.mean.clone())
            self.register_buffer("reach", scale.std.clone())
            for name, limit in zip(("low", "high"), scale.limits or (scale.low, scale.high), strict=True):
                self.register_buffer(name, limit.clone())

    def standard_of(self, raw: Tensor) -> Tensor:
        """Return the prediction in units of `reach`: (..., P) -> (..., P)."""
        return torch.tanh(raw) if self.squashed else raw

    def error_of(self, raw: Tensor, action: Tensor) -> Tensor:
        """Subtract the standardised action from the prediction, (..., P) -> (..., P); 0 in columns without reach."""
        moves = self.reach > 0
        error = self.standard_of(raw) - (action - self.center) / torch.where(moves, self.reach, 1.0)
        return torch.where(moves, error, 0.0)

    def inside(self, standard: Tensor) -> Tensor:
        """Return the action at a standardised prediction, kept inside the limits: (..., P) -> (..., P)."""
        action = torch.addcmul(self.center, self.reach, standard)
        return action if self.squashed else action.clamp(self.get_buffer("low"), self.get_buffer("high"))


class SquaredError(Scaled):
    """Squared error in units of the data's variance: predicting the mean action scores 1."""

    def __init__(self, scale: Scale) -> None:
        super().__init__(scale)
        self.inputs = self.size
        self.loss_unit = "squares of half the action's range" if self.squashed else "variances of the action"

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """Compute `Part.loss`: the mean over the columns that vary, as in Decision Transformer."""
        return self.error_of(raw, action).square().sum(-1) / (self.reach > 0).sum().clamp_min(1)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """Return `Part.act`'s action."""
        return self.inside(self.standard_of(raw))

    def center_of(self, raw: Tensor) -> Tensor:
        """Return the mean, (..., P)."""
        return torch.addcmul(self.center, self.reach, self.standard_of(raw))


class Gaussian(Scaled):
    """Diagonal Gaussian in units of `reach`, its mean the first half of the inputs."""

    def __init__(self, scale: Scale) -> None:
        super().__init__(scale)
        self.inputs = 2 * self.size

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """Compute `Part.loss`: negative log-likelihood in nats of the columns that vary, per unit of the action."""
        moves, log_std = self.reach > 0, self._log_std(raw)
        error = self.error_of(raw[..., : self.size], action) * torch.exp(-log_std)
        constant = 0.5 * math.log(2 * math.pi) + torch.log(torch.where(moves, self.reach, 1.0))
        return torch.where(moves, 0.5 * error.square() + log_std + constant, 0.0).sum(-1)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """Return `Part.act`'s action; samples are kept inside the limits."""
        standard = self.standard_of(raw[..., : self.size])
        if not deterministic:
            standard = standard + torch.randn_like(standard) * torch.exp(self._log_std(raw))
            standard = standard.clamp(-1.0, 1.0) if self.squashed else standard
        return self.inside(standard)

    def center_of(self, raw: Tensor) -> Tensor:
        """Return the mean, (..., P)."""
        return torch.addcmul(self.center, self.reach, self.standard_of(raw[..., : self.size]))

    def _log_std(self, raw: Tensor) -> Tensor:
        # From -5, below which rounding noise would dominate the likelihood, to 1; -0.5 initially. Smooth, so that the
        # gradient does not vanish at either end.
        return -5.0 + 6.0 * torch.sigmoid(raw[..., self.size :] + math.log(3.0))


class Binned(Part):
    """Categorical distribution of each column over K equal intervals; the action is the middle of the chosen one."""

    low: Tensor
    interval: Tensor

    def __init__(self, low: Tensor, high: Tensor, bins: int) -> None:
        super().__init__()
        if bins < 2:
            raise ValueError(f"a categorical likelihood needs at least 2 bins, got {bins}")
        self.size, self.bins = len(low), bins
        self.inputs = self.size * bins
        self.register_buffer("low", low.clone())
        self.register_buffer("interval", (high - low) / bins)

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """Compute `Part.loss`: negative log-likelihood in nats of the columns that vary."""
        moves = self.interval > 0
        logits = F.log_softmax(raw.unflatten(-1, (self.size, self.bins)), dim=-1)
        index = ((action - self.low) / torch.where(moves, self.interval, 1.0)).floor().long().clamp(0, self.bins - 1)
        return torch.where(moves, -logits.gather(-1, index.unsqueeze(-1)).squeeze(-1), 0.0).sum(-1)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """Return `Part.act`'s action."""
        logits = raw.unflatten(-1, (self.size, self.bins))
        index = logits.argmax(-1) if deterministic else _sample(logits)
        return torch.addcmul(self.low, self.interval, index.to(raw.dtype) + 0.5)

    def center_of(self, raw: Tensor) -> Tensor:
        """Return the mean, (..., P)."""
        shares = torch.softmax(raw.unflatten(-1, (self.size, self.bins)), dim=-1)
        middles = torch.arange(self.bins, dtype=raw.dtype, device=raw.device) + 0.5
        return torch.addcmul(self.low, self.interval, shares @ middles)


class OneHot(Part):
    """Categorical distribution of one choice (Discrete) or several (MultiDiscrete), as one-hot columns."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.inputs = sum(sizes)

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """Compute `Part.loss`: cross-entropy in nats."""
        pairs = zip(raw.split(self.sizes, -1), action.split(self.sizes, -1), strict=True)
        losses = [-(F.log_softmax(r, dim=-1) * a).sum(-1) for r, a in pairs]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """Return `Part.act`'s action."""
        choices = [r.argmax(-1) if deterministic else _sample(r) for r in raw.split(self.sizes, -1)]
        hot = [F.one_hot(c, n) for c, n in zip(choices, self.sizes, strict=True)]
        return torch.cat(hot, dim=-1).to(raw.dtype)

    def center_of(self, raw: Tensor) -> Tensor:
        """Return the logits, (..., inputs)."""
        return raw


class Binary(Part):
    """Independent Bernoulli columns (MultiBinary)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inputs = size

    def loss(self, raw: Tensor, action: Tensor) -> Tensor:
        """Compute `Part.loss`: cross-entropy in nats."""
        return F.binary_cross_entropy_with_logits(raw, action, reduction="none").sum(-1)

    def act(self, raw: Tensor, *, deterministic: bool) -> Tensor:
        """Return `Part.act`'s action."""
        if deterministic:
            return (raw > 0).to(raw.dtype)
        return torch.bernoulli(torch.sigmoid(raw))

    def center_of(self, raw: Tensor) -> Tensor:
        """Return the logits, (..., inputs)."""
        return raw


def _sample(logits: Tensor) -> Tensor:
    """Sample a category from each row of logits: (..., K) -> (...)."""
    probabilities = torch.softmax(logits, dim=-1).flatten(0, -2)
    return torch.multinomial(probabilities, 1).reshape(logits.shape[:-1])
