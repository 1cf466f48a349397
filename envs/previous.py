"""Wrappers that add the previous action or the previous reward to the observation."""

from typing import Any, ClassVar, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from .masking import AnyEnv, Array, check_single


class _Appended(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Wrapper that adds a row of values to the observation, zeros at the start of an episode.

    It is appended to a Box of floats with one axis, and becomes the key `key` (a float32 Box) of a Dict; any other
    space becomes a Dict of "observation" and `key`.
    """

    key: ClassVar[str]

    def __init__(self, env: AnyEnv, low: Array, high: Array) -> None:
        """Wrap `env`; `low` and `high` (K,) bound the row. Raises ValueError if a Dict has the key already."""
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        space = env.observation_space
        self._zeros = np.zeros(low.shape, np.float32)
        self._is_row = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
        self._is_dict = isinstance(space, spaces.Dict)
        part = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        if isinstance(space, spaces.Box) and self._is_row:
            low, high = np.append(space.low, low), np.append(space.high, high)
            self.observation_space = spaces.Box(
                low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type
            )
        elif isinstance(space, spaces.Dict):
            if self.key in space.spaces:
                raise ValueError(f'the observation has a part "{self.key}" already')
            self.observation_space = spaces.Dict({**space.spaces, self.key: part})
        else:
            self.observation_space = spaces.Dict({"observation": space, self.key: part})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; the added row is zeros."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._joined(observation, self._zeros), info

    def _joined(self, observation: Any, row: Array) -> Any:
        if self._is_row:
            return np.append(observation, row.astype(observation.dtype))
        parts = observation if self._is_dict else {"observation": observation}
        return {**parts, self.key: row.astype(np.float32)}


class PreviousAction(_Appended):
    """Wrapper that adds the previous action to the observation: flattened, zeros at the start of an episode.

    It is appended to a Box of floats with one axis, and becomes the key "action" (a float32 Box) of a Dict; any other
    space becomes a Dict of "observation" and "action".
    """

    key = "action"

    def __init__(self, env: AnyEnv) -> None:
        """Wrap `env`; raise ValueError if the observation is a Dict that has a key "action" already."""
        check_single(env, type(self))
        flat: Any = spaces.flatten_space(env.action_space)
        if not isinstance(flat, spaces.Box):
            raise ValueError(f"actions of {env.action_space} cannot be flattened to a row")
        super().__init__(env, np.minimum(flat.low, 0), np.maximum(flat.high, 0))

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step; return the observation with the action that led to it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        row = np.asarray(spaces.flatten(self.env.action_space, action), dtype=np.float32)
        return self._joined(observation, row), reward, terminated, truncated, info


class PreviousReward(_Appended):
    """Wrapper that adds the reward of the last step to the observation, 0 at the start of an episode.

    It is appended to a Box of floats with one axis, and becomes the key "reward" (float32, shape (1,)) of a Dict; any
    other space becomes a Dict of "observation" and "reward".
    """

    key = "reward"

    def __init__(self, env: AnyEnv) -> None:
        """Wrap `env`; raise ValueError if the observation is a Dict that has a key "reward" already."""
        check_single(env, type(self))
        super().__init__(env, np.full(1, -np.inf), np.full(1, np.inf))

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step; return the observation with the reward that came with it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._joined(observation, np.array([float(reward)])), reward, terminated, truncated, info
