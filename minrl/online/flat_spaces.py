"""Conversion of flat observations to a policy's, and of its actions to flat ones.

Shapes: B environments, O flat observation width, A flat action width.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.data.spaces import AnySpace, leaves
from minrl.online.inputs.segments import Observations
from minrl.online.spaces import fitted_spaces

CLIP = 10.0  # bound of normalised observations and rewards, Stable-Baselines3's default


class PolicySpaces:
    """Spaces of an environment, and those of the policy that acts in it.

    Tuples and nested spaces are fitted as `minrl.online.spaces.fit_spaces` does it, images have their channels first.

    Args:
        observation_space, action_space: the environment's own.

    Attributes:
        observation_space, action_space: the policy's.
        policy: the name of the kind of policy that takes them.
        width: O.
        images: names of the observations that are images; an observation without parts has the name "".

    Raises:
        ValueError: for spaces that PPO cannot take.
    """

    def __init__(self, observation_space: AnySpace, action_space: AnySpace) -> None:
        given: Any
        given, self.action_space = fitted_spaces(observation_space, action_space)
        self._observed, self._acted = leaves(observation_space), leaves(action_space)
        self.width = self._observed[-1].columns.stop
        self._is_dict = isinstance(given, spaces.Dict)
        parts: dict[str, Any] = dict(given.spaces) if self._is_dict else {"": given}
        self.images = {name for name, part in parts.items() if is_image_space(part)}
        self._transposed = {name for name in self.images if not is_image_space_channels_first(parts[name])}
        parts |= {name: VecTransposeImage.transpose_space(parts[name], name) for name in self._transposed}
        # Pairs keep the order of the keys, in which the policy lays its features side by side.
        self.observation_space: AnySpace = spaces.Dict(list(parts.items())) if self._is_dict else parts[""]
        self.policy = "MultiInputPolicy" if self._is_dict else "CnnPolicy" if self.images else "MlpPolicy"

    def observations(self, flat: Tensor) -> Observations:
        """Convert flat rows (B, O), with choices as one-hot, to the policy's observations."""
        parts = {}
        for leaf in self._observed:
            name = _name(leaf.keys)
            part = _decoded(leaf.space, flat[:, leaf.columns])
            parts[name] = part.permute(0, 3, 1, 2) if name in self._transposed else part
        return parts if self._is_dict else parts[""]

    def flat_actions(self, actions: Tensor) -> Tensor:
        """Convert the policy's actions (B, ...) to flat rows (B, A), choices to one-hot."""
        rest = actions.reshape(actions.shape[0], -1)
        rows = []
        for leaf in self._acted:
            count = leaf.raw_width
            rows.append(_encoded(leaf.space, rest[:, :count]))
            rest = rest[:, count:]
        return torch.cat(rows, dim=1)

    def numbers(self) -> dict[str, slice]:
        """Return the columns of observations that can be normalised: real numbers, but not images."""
        boxes = {_name(leaf.keys): leaf.columns for leaf in self._observed if isinstance(leaf.space, spaces.Box)}
        return {name: columns for name, columns in boxes.items() if name not in self.images}

    def normalized_keys(self) -> list[str] | None:
        """Return the keys that `VecNormalize` normalises.

        Raises:
            ValueError: if there is nothing to normalise.
        """
        if not self.numbers():
            raise ValueError("normalize_observations: there is nothing to normalise in images and choices")
        return sorted(self.numbers()) if self._is_dict else None


class Standardization(nn.Module):
    """Normalisation of `VecNormalize` on flat rows: (x - mean) / std in float64 as there, clipped."""

    mean: Tensor
    std: Tensor
    bound: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("std", torch.ones(width, dtype=torch.float64))
        self.register_buffer("bound", torch.full((width,), torch.inf, dtype=torch.float64))

    def forward(self, flat: Tensor) -> Tensor:
        """Normalise observations: (B, O) -> (B, O)."""
        standard = (flat.double() - self.mean) / self.std
        return torch.minimum(torch.maximum(standard, -self.bound), self.bound).to(flat.dtype)


class Standardizer(Standardization):
    """Standardisation of the numbers among a policy's observations; images and choices are unchanged."""

    def __init__(self, policy_spaces: PolicySpaces) -> None:
        super().__init__(policy_spaces.width)
        self._columns = policy_spaces.numbers()

    def copy_statistics(self, environments: VecNormalize) -> None:
        """Copy the statistics of `environments`."""
        for name, columns in self._columns.items():
            statistics: Any = environments.obs_rms[name] if name else environments.obs_rms
            self.mean[columns] = torch.from_numpy(np.reshape(statistics.mean, -1)).to(self.mean)
            spread = np.sqrt(np.reshape(statistics.var, -1) + environments.epsilon)
            self.std[columns] = torch.from_numpy(spread).to(self.std)
            self.bound[columns] = environments.clip_obs


def _name(keys: tuple[str | int, ...]) -> str:
    return "/".join(map(str, keys))


def _decoded(space: AnySpace, flat: Tensor) -> Tensor:
    """Convert rows of one leaf (B, P) to a policy's observation: choices count from 0."""
    if isinstance(space, spaces.Discrete):
        return flat.argmax(1)
    if isinstance(space, spaces.MultiDiscrete):
        return torch.stack([part.argmax(1) for part in flat.split(space.nvec.reshape(-1).tolist(), dim=1)], dim=1)
    return flat.reshape(flat.shape[0], *(space.shape or (1,)))  # a scalar has one axis there


def _encoded(space: AnySpace, columns: Tensor) -> Tensor:
    """Convert columns of a policy's action, inverse to `_decoded`: (B, raw width) -> (B, P)."""
    if isinstance(space, spaces.Discrete):
        return F.one_hot(columns[:, 0].long(), int(space.n)).to(torch.float32)
    if isinstance(space, spaces.MultiDiscrete):
        choices = zip(columns.long().unbind(1), space.nvec.reshape(-1).tolist(), strict=True)
        return torch.cat([F.one_hot(choice, n) for choice, n in choices], dim=1).to(torch.float32)
    return columns.to(torch.float32)
