"""A wrapper that hides entries of an observation, so that a task needs memory.

Shapes: O width of the full observation, K of the visible entries, … any leading axes.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

AnyEnv = gymnasium.Env[Any, Any]
Array = npt.NDArray[Any]


def check_single(env: Any, wrapper: type) -> None:
    """Raise ValueError if `env` is a vector environment."""
    if isinstance(env, gymnasium.vector.VectorEnv):
        name = wrapper.__name__
        raise ValueError(
            f"{name} wraps one environment, not a vector of them: "
            f"gymnasium.make_vec(ID, num_envs, vectorization_mode='sync', wrappers=[{name}])"
        )


class Mask:
    """Selection of the visible entries of a flat observation, single or batched."""

    def __init__(self, space: gymnasium.Space[Any], keep: Sequence[int], zeroed: bool = False) -> None:
        """Keep the entries `keep`: the others are removed, or with `zeroed` multiplied by zero.

        Raises:
            ValueError: if `space` is not a Box with one axis, or an index lies outside it.
        """
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"only entries of a Box with one axis can be masked, not of {space}")
        if not keep or not all(0 <= index < space.shape[0] for index in keep):
            raise ValueError(f"entries to keep must lie from 0 to {space.shape[0] - 1}, got {list(keep)}")
        self._keep = np.array(keep)
        self._factor: Array | None = None
        self.space = space
        if zeroed:
            self._factor = np.zeros(space.shape, space.dtype)
            self._factor[self._keep] = 1
        else:
            self.space = spaces.Box(space.low[self._keep], space.high[self._keep], dtype=space.dtype.type)

    def apply(self, observation: Array) -> Array:
        """Mask observations: (…, O) -> (…, K), or (…, O) with zeros."""
        if self._factor is None:
            kept: Array = observation.take(self._keep, axis=-1)
            return kept
        masked: Array = observation * self._factor
        return masked


class MaskObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Wrapper that shows only some entries of the observation.

    By default the others are removed and the space shrinks. `zeroed=True` multiplies them by zero and keeps the space,
    like rl-zoo3's MaskVelocityWrapper
    (https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/rl_zoo3/wrappers.py).
    """

    def __init__(self, env: AnyEnv, keep: Sequence[int], zeroed: bool = False) -> None:
        """Show only the entries `keep`; raise ValueError unless the observation is a Box with one axis."""
        check_single(env, type(self))
        RecordConstructorArgs.__init__(self, keep=[int(index) for index in keep], zeroed=zeroed)
        gymnasium.ObservationWrapper.__init__(self, env)
        self._mask = Mask(env.observation_space, keep, zeroed)
        self.observation_space = self._mask.space

    def observation(self, observation: Array) -> Array:
        """Return the visible entries."""
        return self._mask.apply(observation)


class StateBeside(MaskObservation):
    """Wrapper that shows some entries as "observation" and all as "state", which a critic may see."""

    def __init__(self, env: AnyEnv, keep: Sequence[int], zeroed: bool = False) -> None:
        """Show the entries `keep` as "observation"; raise ValueError as `MaskObservation` does."""
        super().__init__(env, keep, zeroed)
        self.observation_space = spaces.Dict({"observation": self._mask.space, "state": env.observation_space})

    def observation(self, observation: Array) -> Any:
        """Return the visible entries and the whole."""
        return {"observation": super().observation(observation), "state": observation}


class Registered(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Outermost wrapper of a registered environment, whose spec is that of the id alone.

    Gymnasium would list the wrappers inside as well, and a data set or a checkpoint that records the spec would then
    name them beside the id that already applies them.
    """

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """Return the registered spec."""
        return self.env.unwrapped.spec


def bare(environment_id: str, **options: Any) -> AnyEnv:
    """Make Gymnasium's environment without the time limit and the checker, which the registered id adds itself."""
    made: AnyEnv = gymnasium.make(environment_id, max_episode_steps=-1, disable_env_checker=True, **options)
    return made
