"""Wrappers that disturb observations: Gaussian noise, and observations that go missing."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from .masking import AnyEnv, Array, check_single


class NoisyObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Wrapper that adds Gaussian noise of standard deviation `scale` (Meng, Gorbet and Kulic 2021, arXiv 2102.12344).

    The observation must be a Box of floats; noise is not clipped, so the space becomes unbounded.
    """

    def __init__(self, env: AnyEnv, scale: float = 0.1) -> None:
        """Wrap `env`; raise ValueError unless it observes a Box of floats, or for a negative `scale`."""
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
        """Add noise from the environment's own generator, so that a seed fixes the noise too."""
        noise = self.np_random.normal(0.0, self._scale, np.shape(observation))
        noisy: Array = (observation + noise).astype(observation.dtype)
        return noisy


class FlickeringObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Wrapper that zeroes each observation with a `probability` (Hausknecht and Stone 2015, arXiv 1507.06527)."""

    def __init__(self, env: AnyEnv, probability: float = 0.5) -> None:
        """Wrap `env`; raise ValueError unless it observes a Box, or for a probability outside [0, 1]."""
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
        """Return the observation or zeros."""
        return np.zeros_like(observation) if self.np_random.random() < self._probability else observation


def _check_floats(env: AnyEnv, what: str) -> None:
    space = env.observation_space
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
        raise ValueError(f"only a Box of floats can have {what}, not {space}")
