"""Last layer of a saved actor: from its latents to actions of the environment, likeliest or drawn.

Draws come from torch's global generator, in the order in which Stable-Baselines3 draws.

Shapes: B environments, D latents, A flat action width, K outputs of the last layer.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F

from minrl.data.masks.action_masks import MASKED
from minrl.data.spaces import AnySpace, leaves
from minrl.zoo.network import linear
from minrl.zoo.weights import LinearSize

# Bounds of SAC's log standard deviation (stable_baselines3/sac/policies.py).
_LOG_STD = -20.0, 2.0
_EPSILON = 1e-6  # in expln (stable_baselines3/common/distributions.py)


@dataclass(frozen=True)
class HeadSize:
    """Size and kind of the last layer."""

    linear: LinearSize
    kind: Literal["box", "choices", "flags"]
    choices: tuple[int, ...] = ()  # numbers of choices, side by side
    low: tuple[float, ...] = ()  # bounds of a Box
    high: tuple[float, ...] = ()
    squash: bool = False  # tanh, then scaled from (-1, 1) to the bounds
    clip_mean: float = 0.0  # bound of the mean before it, 0 for none
    quantiles: int = 1  # of each choice's value, averaged
    log_std: tuple[int, ...] | None = None  # shape of the parameter; None without noise or with `std`
    std: LinearSize | None = None  # a layer in its place
    sde: bool = False  # noise is a linear map of the latents
    full_std: bool = True
    use_expln: bool = False
    greedy: bool = False  # choices are the best by value, never drawn by their logits
    epsilon: float = 0.0  # probability of a random choice where they are


class ActionHead(nn.Module):
    """Last layer of an actor, and the conversion of its outputs to flat actions of a space."""

    low: Tensor
    high: Tensor

    def __init__(self, size: HeadSize, space: AnySpace) -> None:
        super().__init__()
        self.size, self.leaves = size, leaves(space)
        self.linear = linear(size.linear)
        if size.std is not None:
            self.std = linear(size.std)
        if size.log_std is not None:
            self.log_std = nn.Parameter(torch.zeros(size.log_std))
        if size.kind == "box":
            self.register_buffer("low", torch.tensor(size.low, dtype=torch.float32))
            self.register_buffer("high", torch.tensor(size.high, dtype=torch.float32))
        self._noise: tuple[Tensor, Tensor] | None = None

    def forward(self, latent: Tensor, *, deterministic: bool = True, masks: Tensor | None = None) -> Tensor:
        """Act: (B, D), and (B, M) flags of the choices that are allowed -> (B, A)."""
        out = self.linear(latent)
        if self.size.kind == "box":
            return self._box(out, latent, deterministic)
        if self.size.kind == "flags":
            likely = out.sigmoid()
            return (likely > 0.5).to(torch.float32) if deterministic else torch.bernoulli(likely)
        if self.size.quantiles > 1:
            out = out.reshape(-1, self.size.quantiles, self.size.choices[0]).mean(1)
        if masks is not None:
            out = torch.where(masks, out, torch.full_like(out, MASKED))
        parts = out.split(list(self.size.choices), dim=1)
        if deterministic or self.size.greedy:
            chosen = torch.stack([part.argmax(1) for part in parts], dim=1)
            if not deterministic and self.size.epsilon:
                chosen = self._explored(chosen)
        else:
            chosen = torch.stack([Categorical(logits=part, validate_args=False).sample() for part in parts], dim=1)
        return self._encoded(chosen)

    def parameters_of(self, latent: Tensor, masks: Tensor | None = None) -> Tensor | None:
        """Return the parameters (B, K) of the distribution, see `minrl.agent.StochasticActor`; None for other kinds."""
        size, out = self.size, cast(Tensor, self.linear(latent))
        if size.kind == "flags":
            return out
        if size.kind == "box":
            has_own_std = size.log_std is not None and size.std is None and not (size.sde or size.squash)
            return torch.cat([out, self.log_std.reshape(1, -1).expand_as(out)], dim=1) if has_own_std else None
        if size.greedy:
            return None
        if masks is not None:
            out = torch.where(masks, out, torch.full_like(out, MASKED))
        if all(isinstance(leaf.space, spaces.MultiBinary) for leaf in self.leaves):
            no, yes = out.unflatten(1, (-1, 2)).unbind(2)
            return cast(Tensor, yes - no)
        return out

    def reset_noise(self, batch_size: int) -> None:
        """Draw new matrices for the noise of B environments that is a linear map of the latents."""
        std = self._deviation()
        normal = Normal(torch.zeros_like(std), std)
        self._noise = normal.rsample(), normal.rsample(torch.Size((batch_size,)))

    def _box(self, mean: Tensor, latent: Tensor, deterministic: bool) -> Tensor:
        size = self.size
        if size.clip_mean:
            mean = mean.clamp(-size.clip_mean, size.clip_mean)
        if not deterministic:
            mean = self._with_noise(mean, latent)
        if size.squash:
            return self.low + 0.5 * (mean.tanh() + 1.0) * (self.high - self.low)
        return torch.minimum(torch.maximum(mean, self.low), self.high)

    def _with_noise(self, mean: Tensor, latent: Tensor) -> Tensor:
        """Draw before tanh: (B, A), (B, D) -> (B, A)."""
        if self.size.std is not None:
            return Normal(mean, self.std(latent).clamp(*_LOG_STD).exp()).rsample()
        if self.size.log_std is None:
            return mean
        if not self.size.sde:
            return Normal(mean, torch.ones_like(mean) * self.log_std.exp()).rsample()
        if self._noise is None:
            self.reset_noise(len(mean))
        one, many = self._noise  # type: ignore[misc]
        if len(latent) == 1 or len(latent) != len(many):
            return mean + latent @ one
        return mean + torch.bmm(latent.unsqueeze(1), many).squeeze(1)

    def _deviation(self) -> Tensor:
        """Return the standard deviation (D, A) of the matrices of the noise."""
        log_std = self.log_std
        if self.size.use_expln:
            above = torch.log1p(log_std * (log_std > 0) + _EPSILON) + 1.0
            std = log_std.exp() * (log_std <= 0) + above * (log_std > 0)
        else:
            std = log_std.exp()
        return std.expand(self.size.linear.inputs, self.size.linear.outputs)

    def _explored(self, chosen: Tensor) -> Tensor:
        """Replace each choice (B, 1) by a random one with probability epsilon."""
        explores = torch.rand(len(chosen), 1) < self.size.epsilon
        return torch.where(explores, torch.randint(self.size.choices[0], chosen.shape), chosen)

    def _encoded(self, chosen: Tensor) -> Tensor:
        """Convert choices, counted from 0 and side by side, to flat actions: one-hot, flags as they are."""
        rows, first = [], 0
        for leaf in self.leaves:
            count = leaf.raw_width
            values = chosen[:, first : first + count]
            if isinstance(leaf.space, spaces.MultiBinary):
                rows.append(values)
            else:
                sizes = self.size.choices[first : first + count]
                rows += [F.one_hot(value, n) for value, n in zip(values.unbind(1), sizes, strict=True)]
            first += count
        return torch.cat(rows, dim=1).to(torch.float32)
