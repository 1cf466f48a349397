"""The last reward as a part of the observation: what a task whose reward tells something asks for."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from .masking import AnyEnv, check_single

KEY = "reward"


class PreviousReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Shows the reward of the last step beside the observation, 0 at the start of an episode.

    A Box of floats with one axis gets one entry more, at its end; a Dict the key "reward", of shape (1,) and
    float32; any other space becomes a Dict of "observation" and "reward".
    """

    def __init__(self, env: AnyEnv) -> None:
        """Raises ValueError where the observation is a Dict that has a key "reward" already."""
        check_single(env, type(self))
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        space = env.observation_space
        reward = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self._is_row = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
        self._is_dict = isinstance(space, spaces.Dict)
        if isinstance(space, spaces.Box) and self._is_row:
            low, high = np.append(space.low, -np.inf), np.append(space.high, np.inf)
            self.observation_space = spaces.Box(
                low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type
            )
        elif isinstance(space, spaces.Dict):
            if KEY in space.spaces:
                raise ValueError(f'the observation has a part "{KEY}" already')
            self.observation_space = spaces.Dict({**space.spaces, KEY: reward})
        else:
            self.observation_space = spaces.Dict({"observation": space, KEY: reward})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation, with a reward of 0."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._joined(observation, 0.0), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """The next observation, with the reward that came with it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._joined(observation, float(reward)), reward, terminated, truncated, info

    def _joined(self, observation: Any, reward: float) -> Any:
        if self._is_row:
            return np.append(observation, np.asarray(reward, observation.dtype))
        parts = observation if self._is_dict else {"observation": observation}
        return {**parts, KEY: np.array([reward], dtype=np.float32)}
