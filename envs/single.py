"""A Gymnasium environment made of one row of a vectorised task, so that each task is written once."""

from typing import Any

import gymnasium
import numpy as np

from .vector import Dynamics, Options


class SingleEnv(gymnasium.Env[Any, Any]):
    """Environment of one row of `dynamics`; equal seeds give the episodes of a row of the vector environment."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name, an instance's in its typing

    def __init__(self, dynamics: Dynamics) -> None:
        self.observation_space, self.action_space = dynamics.observation_space, dynamics.action_space
        self._dynamics = dynamics
        self._over = True

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._dynamics.begin(0, self.np_random, options)
        self._over = False
        return self._dynamics.observe()[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; raise ValueError if the episode is over or the action is outside its space."""
        if self._over:
            raise ValueError("the episode is over: call reset")
        if not self.action_space.contains(action):
            raise ValueError(f"the action must lie in {self.action_space}, got {action!r}")
        rewards, ends = self._dynamics.advance(np.asarray([action]))
        self._over = bool(ends[0])
        return self._dynamics.observe()[0], float(rewards[0]), self._over, False, {}
