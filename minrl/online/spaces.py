"""Wrapper for environments whose spaces Stable-Baselines3 does not support.

It supports Box, Discrete, MultiDiscrete and MultiBinary, and for observations a Dict of these. It supports no Tuple, no
nested Dict, no MultiDiscrete with several axes, no such MultiBinary in actions, no Box without an axis in observations,
and counts every discrete choice from 0.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from minrl.data.space_match import arranged
from minrl.data.spaces import is_text, path_name, walk
from minrl.data.wrappers import ScalarReward
from minrl.system.messages import one_line

AnySpace = gymnasium.Space[Any]
AnyEnv = gymnasium.Env[Any, Any]
Path = tuple[str | int, ...]
_LEAVES = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary


def fit_spaces(env: AnyEnv, *, like: tuple[AnySpace, AnySpace] | None = None) -> AnyEnv:
    """Return `env` if Stable-Baselines3 supports its spaces, else inside a wrapper that fits them.

    Observations: a Tuple becomes a Dict with the keys "0", "1", …; nested parts move to one level, under keys like
    "0/position". Actions: a Tuple or Dict of discrete parts becomes one MultiDiscrete, in the order of
    `gymnasium.spaces.flatten`. Discrete choices are counted from 0 and lie along one axis, also a single one.

    Args:
        env: an environment of any spaces.
        like: observation and action space whose Dicts have the order of keys to follow; the environment's own by
            default.

    Raises:
        ValueError: for kinds of space that have no counterpart (text, Graph, Sequence, OneOf; actions that mix
            continuous parts with others), or where two parts would get the same key.
    """
    observation_space, action_space = fitted_spaces(*_ordered(env, like))
    if observation_space is env.observation_space and action_space is env.action_space:
        return env
    return FittedSpaces(env, like=like)


def fitted_spaces(observation_space: AnySpace, action_space: AnySpace) -> tuple[AnySpace, AnySpace]:
    """Return the spaces of `fit_spaces`; a supported space is returned itself.

    Raises:
        ValueError: as `fit_spaces`.
    """
    return _Observations(observation_space).space, _Actions(action_space).space


def prepared(env: GymEnv) -> GymEnv:
    """Return `env` with scalar rewards, after a check that a recurrent policy supports its spaces.

    Raises:
        ValueError: for spaces that `fit_spaces` has to fit first, and for those that it cannot fit. The start of a
            Discrete or MultiDiscrete needs no fitting, as policies count from it themselves.
    """
    for kind, space, fit in (
        ("observation", env.observation_space, _Observations),
        ("action", env.action_space, _Actions),
    ):
        parts = list(space.values()) if isinstance(space, spaces.Dict) and kind == "observation" else [space]
        if all(isinstance(part, _LEAVES) and _on_axes(part, kind) is part for part in parts):
            continue
        fit(space)
        raise ValueError(
            f"recurrent policies do not take the {kind} space {one_line(space)} as it is: wrap each "
            "environment with minrl.online.spaces.fit_spaces; predict then takes and returns their spaces"
        )
    return env if isinstance(env, VecEnv) else ScalarReward(env)


def choice_starts(space: AnySpace) -> dict[str, torch.Tensor]:
    """Return the first choice of observations that do not count from 0; one without parts is named ""."""
    parts = space.spaces.items() if isinstance(space, spaces.Dict) else [("", space)]
    return {
        name: torch.from_numpy(np.asarray(part.start, np.int64))
        for name, part in parts
        if isinstance(part, spaces.Discrete | spaces.MultiDiscrete) and np.any(part.start)
    }


def _ordered(env: AnyEnv, like: tuple[AnySpace, AnySpace] | None) -> tuple[AnySpace, AnySpace]:
    """Return the spaces of `env`, in the order of keys of `like`."""
    if like is None:
        return env.observation_space, env.action_space
    return arranged(env.observation_space, like[0]), arranged(env.action_space, like[1])


class FittedSpaces(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Environment with the spaces that `fit_spaces` describes."""

    def __init__(self, env: AnyEnv, *, like: tuple[AnySpace, AnySpace] | None = None) -> None:
        """Raise a ValueError as `fit_spaces` does."""
        gymnasium.utils.RecordConstructorArgs.__init__(self, like=like)
        gymnasium.Wrapper.__init__(self, env)
        observation_space, action_space = _ordered(env, like)
        self._observations, self._actions = _Observations(observation_space), _Actions(action_space)
        self.observation_space, self.action_space = self._observations.space, self._actions.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset and fit the first observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self.observation(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step with a fitted action and fit the observation."""
        observation, reward, terminated, truncated, info = self.env.step(self.action(action))
        return self.observation(observation), reward, terminated, truncated, info

    def observation(self, observation: Any) -> Any:
        """Fit an observation of the inner environment."""
        return self._observations.fit(observation)

    def action(self, action: Any) -> Any:
        """Convert an action to the inner environment's."""
        return self._actions.restore(action)


class _Observations:
    """Conversion of observations of any space to `space`."""

    def __init__(self, given: AnySpace) -> None:
        parts = _parts_of(given, "observation")
        self._parts = [(path, "/".join(map(str, path)), _converter(part)) for path, part in parts]
        fitted = {
            name: _fitted(part, "observation") for (_, part), (_, name, _) in zip(parts, self._parts, strict=True)
        }
        if len(fitted) < len(parts) or not parts:
            raise ValueError(f"the parts of the observation space {given} have no names of their own")
        self._is_leaf = isinstance(given, _LEAVES)
        if self._is_leaf:
            self.space: AnySpace = fitted[""]
        elif isinstance(given, spaces.Dict) and all(fitted.get(key) is part for key, part in given.items()):
            self.space = given
        else:
            self.space = spaces.Dict(fitted)  # sorted, and read by name

    def fit(self, observation: Any) -> Any:
        if self._is_leaf:
            return self._parts[0][2](observation)
        return {name: convert(_at(observation, path)) for path, name, convert in self._parts}


class _Actions:
    """Conversion of actions of `space` to any space."""

    def __init__(self, given: AnySpace) -> None:
        self._given = given
        parts = _parts_of(given, "action")
        if not parts:
            raise ValueError(f"the action space {given} has no parts")
        if isinstance(given, _LEAVES):
            self.space = _fitted(given, "action")
        elif any(isinstance(part, spaces.Box) for _, part in parts):
            raise ValueError(f"an action of several parts must be discrete in all of them, got {given}")
        else:
            self.space = spaces.MultiDiscrete(np.concatenate([_choices(part) for _, part in parts]))

    def restore(self, action: Any) -> Any:
        if self.space is self._given:
            return action
        rest = np.asarray(action).reshape(-1)
        return _restored(self._given, iter(rest))


def _parts_of(space: AnySpace, kind: str) -> list[tuple[Path, AnySpace]]:
    """List the leaves of a space, each with its keys."""
    parts = list(walk(space))
    for path, part in parts:
        if not isinstance(part, _LEAVES):
            found = f"{type(part).__name__} at {path_name(path)}"
            hint = "; leave it out with a wrapper" if kind == "observation" and is_text(part) else ""
            raise ValueError(f"the {kind} space holds a {found}, which PPO cannot take{hint}")
    return parts


def _at(observation: Any, path: Path) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _fitted(part: AnySpace, kind: str) -> AnySpace:
    """Return `part` if Stable-Baselines3 supports it as an "observation" or "action"."""
    part = _on_axes(part, kind)
    if isinstance(part, spaces.Discrete) and part.start != 0:
        return spaces.Discrete(int(part.n))
    if isinstance(part, spaces.MultiDiscrete) and part.start.any():
        return spaces.MultiDiscrete(part.nvec)
    return part


def _on_axes(part: AnySpace, kind: str) -> AnySpace:
    """Return `part` if Stable-Baselines3 supports its axes: choices along one, observations with at least one."""
    if isinstance(part, spaces.MultiDiscrete) and part.nvec.ndim > 1:
        return spaces.MultiDiscrete(part.nvec.reshape(-1), start=part.start.reshape(-1))
    if isinstance(part, spaces.MultiBinary) and kind == "action" and len(part.shape) > 1:
        return spaces.MultiBinary(int(np.prod(part.shape)))
    if isinstance(part, spaces.Box) and kind == "observation" and not part.shape:
        kept: Any = part.dtype
        return spaces.Box(part.low.reshape(1), part.high.reshape(1), dtype=kept)
    return part


def _converter(part: AnySpace) -> Callable[[Any], Any]:
    """Return the conversion of observations of `part` to `_fitted(part, "observation")`."""
    if _fitted(part, "observation") is part:
        return lambda value: value
    if isinstance(part, spaces.Box):
        return lambda value: np.asarray(value, dtype=part.dtype).reshape(1)
    if isinstance(part, spaces.MultiDiscrete):
        start = part.start
        return lambda value: (np.asarray(value, dtype=np.int64) - start).reshape(-1)
    first = int(part.start)  # type: ignore[attr-defined]
    return lambda value: np.int64(int(value) - first)


def _choices(part: AnySpace) -> Any:
    """Return the numbers of choices of a discrete part, flattened."""
    if isinstance(part, spaces.Discrete):
        return [int(part.n)]
    if isinstance(part, spaces.MultiDiscrete):
        return part.nvec.reshape(-1)
    return [2] * int(np.prod(part.shape or ()))


def _restored(space: AnySpace, choices: Iterator[Any]) -> Any:
    """Build a value of `space` from the next of `choices`, which count from 0."""
    if isinstance(space, spaces.Dict):
        return {key: _restored(part, choices) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_restored(part, choices) for part in space.spaces)
    if isinstance(space, spaces.Discrete):
        return np.int64(next(choices)) + space.start
    row = np.array([next(choices) for _ in range(int(np.prod(space.shape or ())))], dtype=space.dtype)
    row = row.reshape(space.shape)
    return row + space.start if isinstance(space, spaces.MultiDiscrete) else row
