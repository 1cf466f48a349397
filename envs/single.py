"""Scalar Gymnasium environment of a compiled task, so that each task is written once."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from .compiled import Options, Task, action_type
from .random_streams import continue_from, stream_of


class SingleEnv(gymnasium.Env[Any, Any]):
    """Environment of one row of `task`, whose functions run as plain Python, so that a debugger can enter them.

    Equal seeds give the episodes of a row of the vector environment.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name, an instance's in its typing

    def __init__(self, task: Task) -> None:
        self.observation_space, self.action_space = task.observation_space, task.action_space
        self._task = task
        self._functions: list[Any] = [getattr(each, "py_func", each) for each in (task.reset, task.step, task.observe)]
        self._state, self._settings = np.zeros(task.state_size), task.settings_of(None)
        self._over = True

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        stream = stream_of(self.np_random)
        self._functions[0](self._state, stream, self._task.settings_of(options))
        continue_from(self.np_random, stream)
        self._over = False
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; raise ValueError if the episode is over or the action is outside its space."""
        if self._over:
            raise ValueError("the episode is over: call reset")
        if not self.action_space.contains(action):
            raise ValueError(f"the action must lie in {self.action_space}, got {action!r}")
        flat = np.asarray(action, dtype=action_type(self.action_space)).reshape(-1)
        reward, terminated, truncated = self._functions[1](self._state, flat, self._settings)
        self._over = bool(terminated or truncated)
        return self._observation(), float(reward), bool(terminated), bool(truncated), {}

    def _observation(self) -> Any:
        space = self.observation_space
        shown = np.empty(int(np.prod(space.shape or ())), dtype=space.dtype)
        self._functions[2](self._state, shown, self._settings)
        return shown[0] if isinstance(space, spaces.Discrete) else shown.reshape(space.shape or ())
