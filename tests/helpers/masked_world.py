"""An environment that fails on a masked action, and small recurrent PPO models in it."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from minrl.data.masks.action_masks import choices, mask_size
from minrl.data.spaces import leaves


def drawn_masks(space: spaces.Space[Any], random: np.random.Generator, rows: int | None = None) -> Any:
    """Draw masks (rows, M), or one, that allow at least one choice of each component."""
    masks = random.random((rows or 1, mask_size(space))) < 0.5
    first = 0
    for count in choices(space):
        masks[np.arange(len(masks)), first + random.integers(count, size=len(masks))] = True
        first += count
    return masks if rows else masks[0]


def chosen(space: spaces.Space[Any], action: Any) -> Any:
    """Return the number of the choice of each component, from 0."""
    parts = []
    for leaf in leaves(space):
        part = action
        for key in leaf.keys:
            part = part[key]
        parts.append(np.asarray(part).reshape(-1) - np.reshape(getattr(leaf.space, "start", 0), -1))
    return np.concatenate(parts)


class Masked(gymnasium.Env[Any, Any]):
    """Random observations and masks, an episode of six steps; the reward is for the first allowed choices.

    The mask is no part of the observation.
    """

    def __init__(self, space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = space or spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 6
        return self._draw(), {}

    def action_masks(self) -> Any:
        return self.masks.tolist()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        first = np.cumsum([0, *choices(self.action_space)[:-1]])
        taken = first + chosen(self.action_space, action)
        assert self.masks[taken].all(), f"{action} is masked: {self.masks}"
        best = [np.argmax(part) for part in np.split(self.masks, first[1:])]
        self.left -= 1
        return self._draw(), float(np.mean(taken - first == best)), False, self.left == 0, {}

    def _draw(self) -> Any:
        self.masks = drawn_masks(self.action_space, self.np_random)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


def masked(n_envs: int = 3, **options: Any) -> Any:
    return make_vec_env(lambda: Masked(**options), n_envs, seed=0)
