"""Observations that are noisy or missing, and actions shown again: what the recurrent literature does to tasks."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from .masking import AnyEnv, Array, check_single

KEY = "action"


class NoisyObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Gaussian noise of deviation `scale` on a Box of floats (Meng, Gorbet and Kulic 2021, arXiv 2102.12344).

    What leaves the space's bounds stays outside them: the space is widened to all numbers.
    """

    def __init__(self, env: AnyEnv, scale: float = 0.1) -> None:
        """Raises ValueError where the observation is no Box of floats, or for a negative `scale`."""
        check_single(env, type(self))
        _check_floats(env, "noise")
        if scale < 0:
            raise ValueError(f"scale must not be negative, got {scale}")
        RecordConstructorArgs.__init__(self, scale=scale)
        gymnasium.ObservationWrapper.__init__(self, env)
        space: Any = env.observation_space
        self.observation_space = spaces.Box(-np.inf, np.inf, space.shape, space.dtype.type)
        self._scale = scale

    def observation(self, observation: Array) -> Array:
        """What is seen, from the environment's own generator, so that a seed fixes the noise too."""
        noise = self.np_random.normal(0.0, self._scale, np.shape(observation))
        noisy: Array = (observation + noise).astype(observation.dtype)
        return noisy


class FlickeringObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Each observation is all zeros with the given `probability` (Hausknecht and Stone 2015, arXiv 1507.06527)."""

    def __init__(self, env: AnyEnv, probability: float = 0.5) -> None:
        """Raises ValueError where the observation is no Box, or for no probability."""
        check_single(env, type(self))
        if not isinstance(env.observation_space, spaces.Box):
            raise ValueError(f"only a Box can flicker, not {env.observation_space}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], got {probability}")
        RecordConstructorArgs.__init__(self, probability=probability)
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        self.observation_space = spaces.Box(
            np.minimum(space.low, 0).astype(space.dtype),
            np.maximum(space.high, 0).astype(space.dtype),
            dtype=space.dtype.type,
        )
        self._probability = probability

    def observation(self, observation: Array) -> Array:
        """The observation or zeros."""
        return np.zeros_like(observation) if self.np_random.random() < self._probability else observation


class PreviousAction(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Shows the last action beside the observation: flattened, zeros at the start of an episode.

    A Box of floats with one axis gets the entries at its end; a Dict the key "action", a Box of float32; any other
    space becomes a Dict of "observation" and "action".
    """

    def __init__(self, env: AnyEnv) -> None:
        """Raises ValueError where the observation is a Dict that has a key "action" already."""
        check_single(env, type(self))
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        flat: Any = spaces.flatten_space(env.action_space)
        if not isinstance(flat, spaces.Box):
            raise ValueError(f"actions of {env.action_space} cannot be flattened to a row")
        low, high = np.minimum(flat.low, 0), np.maximum(flat.high, 0)
        space = env.observation_space
        self._empty = np.zeros(flat.shape, np.float32)
        self._is_row = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
        self._is_dict = isinstance(space, spaces.Dict)
        action = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        if isinstance(space, spaces.Box) and self._is_row:
            self.observation_space = spaces.Box(
                np.append(space.low, low).astype(space.dtype),
                np.append(space.high, high).astype(space.dtype),
                dtype=space.dtype.type,
            )
        elif isinstance(space, spaces.Dict):
            if KEY in space.spaces:
                raise ValueError(f'the observation has a part "{KEY}" already')
            self.observation_space = spaces.Dict({**space.spaces, KEY: action})
        else:
            self.observation_space = spaces.Dict({"observation": space, KEY: action})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation, with no action."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._joined(observation, self._empty), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """The next observation, with the action that led to it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        row = np.asarray(spaces.flatten(self.env.action_space, action), dtype=np.float32)
        return self._joined(observation, row), reward, terminated, truncated, info

    def _joined(self, observation: Any, action: Array) -> Any:
        if self._is_row:
            return np.append(observation, action.astype(observation.dtype))
        parts = observation if self._is_dict else {"observation": observation}
        return {**parts, KEY: action}


def _check_floats(env: AnyEnv, what: str) -> None:
    space = env.observation_space
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
        raise ValueError(f"only a Box of floats can have {what}, not {space}")
