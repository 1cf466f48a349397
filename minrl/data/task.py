"""Task: spaces, environment and returns that an agent is trained for, saved with its weights.

Shapes: A flat action width.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from minrl.data.environment import EnvironmentInfo, trusted
from minrl.data.episode import Episodes, spread
from minrl.data.moments import Moments, column_moments
from minrl.data.space_match import Kind, mismatch
from minrl.data.space_text import from_json, to_json
from minrl.data.spaces import AnySpace, leaves
from minrl.system.messages import one_line


@dataclass(frozen=True)
class Task:
    """Facts of a data set, or of a training environment, that an agent needs to act."""

    dataset: str
    observation_space: AnySpace
    action_space: AnySpace
    action_low: tuple[float, ...]  # (A,) lowest recorded; without a data set the space's bounds
    action_high: tuple[float, ...]  # (A,)
    best_return: float  # of an episode of the data set: the default target return
    return_scale: float  # standard deviation of the data set's returns-to-go
    longest_episode: int
    environment: EnvironmentInfo | None
    reference_scores: tuple[float, float] | None  # returns that score 0 and 100
    # (A,) of the recorded actions, 0 and 1 for choices; the std of a constant column is 0. None without a data set, and
    # in checkpoints from before actions were standardised.
    action_mean: tuple[float, ...] | None = None
    action_std: tuple[float, ...] | None = None
    wide_observations: bool = False  # float32 would lose their values, so they stay float64 until centred
    # At any step of the data set: with negative rewards above `best_return`. None in older checkpoints.
    best_return_to_go: float | None = None
    critic_keys: tuple[str, ...] = ()  # parts of the observation that acting does not read
    masked: bool = False  # the data set or the environment has action masks, see `minrl.data.masks`

    @classmethod
    def of(cls, episodes: Episodes) -> "Task":
        """Return the task of a data set."""
        actions = _action_moments(episodes)
        scale = spread(episodes.returns_to_go)
        return cls(
            dataset=episodes.name,
            observation_space=episodes.observation_space,
            action_space=episodes.action_space,
            action_low=tuple(actions.low.tolist()),
            action_high=tuple(actions.high.tolist()),
            action_mean=tuple(actions.mean.tolist()),
            action_std=tuple(actions.std.tolist()),
            wide_observations=episodes.observations.dtype == np.float64,
            best_return=float(episodes.returns.max()),
            best_return_to_go=float(episodes.returns_to_go.max()),
            return_scale=scale if scale > 0 else 1.0,
            longest_episode=int(episodes.lengths.max()),
            environment=episodes.environment,
            reference_scores=episodes.reference_scores,
            masked=episodes.action_masks is not None,
        )

    @classmethod
    def in_environment(
        cls, environment: EnvironmentInfo, observation_space: AnySpace, action_space: AnySpace
    ) -> "Task":
        """Return the task of an agent that learns online, without a data set: no return and no length is known.

        Raises:
            ValueError: for a space that has no fixed width.
        """
        bounds = [_bounds(leaf.space) for leaf in leaves(action_space)]
        boxes = [leaf.space for leaf in leaves(observation_space) if isinstance(leaf.space, spaces.Box)]
        return cls(
            dataset=f"env:{environment.id}",
            observation_space=observation_space,
            action_space=action_space,
            action_low=tuple(np.concatenate([low for low, _ in bounds]).tolist()),
            action_high=tuple(np.concatenate([high for _, high in bounds]).tolist()),
            # A running normalisation is in float64, as in Stable-Baselines3.
            wide_observations=any(space.dtype in (np.float64, np.int32, np.int64, np.uint32) for space in boxes),
            best_return=0.0,
            return_scale=1.0,
            longest_episode=0,
            environment=environment,
            reference_scores=None,
        )

    @property
    def observation_size(self) -> int:
        """O, the width of a flattened observation."""
        return int(spaces.flatdim(self.acting_space))

    @property
    def acting_space(self) -> AnySpace:
        """Return the part of the observation space that acting reads."""
        return self._acted_on(self.observation_space)

    def _acted_on(self, space: AnySpace) -> AnySpace:
        if not self.critic_keys or not isinstance(space, spaces.Dict):
            return space
        return spaces.Dict([(key, part) for key, part in space.spaces.items() if key not in self.critic_keys])

    @property
    def action_size(self) -> int:
        """A, the width of a flattened action."""
        return int(spaces.flatdim(self.action_space))

    def action_limits(self) -> tuple[Tensor, Tensor]:
        """Return the bounds of actions, (A,) and (A,): the space's, or where it has none those recorded."""
        bounds = [_bounds(leaf.space) for leaf in leaves(self.action_space)]
        low, high = (np.concatenate(side) for side in zip(*bounds, strict=True))
        low = np.where(np.abs(low) < _NO_BOUND, low, self.action_low)
        high = np.where(np.abs(high) < _NO_BOUND, high, self.action_high)
        return torch.from_numpy(low).float(), torch.from_numpy(high).float()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        environment = self.environment
        return {
            "dataset": self.dataset,
            "observation_space": to_json(self.observation_space),
            "action_space": to_json(self.action_space),
            "action_low": list(self.action_low),
            "action_high": list(self.action_high),
            "action_mean": None if self.action_mean is None else list(self.action_mean),
            "action_std": None if self.action_std is None else list(self.action_std),
            "wide_observations": self.wide_observations,
            "best_return": self.best_return,
            "best_return_to_go": self.best_return_to_go,
            "return_scale": self.return_scale,
            "longest_episode": self.longest_episode,
            "masked": self.masked,
            "critic_keys": list(self.critic_keys),
            "environment": None if environment is None else environment.to_dict(),
            "reference_scores": None if self.reference_scores is None else list(self.reference_scores),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Task":
        """Build a task from the values of `to_dict` in a checkpoint, which the environment is marked to be named by.

        Raises:
            ValueError: for values that no data set has, such as texts or NaN in place of numbers.
        """
        _check_values(values)
        environment, scores = values["environment"], values["reference_scores"]
        named = None if environment is None else EnvironmentInfo.from_dict(environment, "the checkpoint")
        mean, std = values.get("action_mean"), values.get("action_std")
        return cls(
            **{
                **values,
                "observation_space": from_json(values["observation_space"]),
                "action_space": from_json(values["action_space"]),
                "action_low": tuple(values["action_low"]),
                "action_high": tuple(values["action_high"]),
                "wide_observations": values.get("wide_observations") is True,
                "masked": values.get("masked") is True,
                "critic_keys": tuple(map(str, values.get("critic_keys") or ())),
                "action_mean": None if mean is None else tuple(mean),
                "action_std": None if std is None else tuple(std),
                "environment": named,
                "reference_scores": None if scores is None else (scores[0], scores[1]),
            }
        )

    def known_environment(self) -> EnvironmentInfo:
        """Return the environment of the data set.

        Raises:
            ValueError: if there is none, or a file names it and it is not trusted (see `minrl.data.trust`).
        """
        if self.environment is None:
            raise ValueError(f"{self.dataset} names no environment; say which one to evaluate in with --env ID")
        return trusted(self.environment)

    def check_fits(self, observation_space: AnySpace, action_space: AnySpace, name: str) -> None:
        """Raise ValueError unless the spaces of environment `name` match those that the agent was trained for.

        `mismatch` says what may differ.
        """
        pairs: dict[Kind, tuple[AnySpace, AnySpace]] = {
            "observation": (self.acting_space, self._acted_on(observation_space)),
            "action": (self.action_space, action_space),
        }
        for kind, (ours, theirs) in pairs.items():
            found = mismatch(ours, theirs, kind)
            if found is not None:
                raise ValueError(
                    f"{name}: its {kind} space {one_line(theirs)} does not match {one_line(ours)}, which "
                    f"this agent was trained for on {self.dataset}: {one_line(found)}"
                )


def _check_values(values: dict[str, Any]) -> None:
    """Raise ValueError unless the fields of a task are text and finite numbers; None stands for unknown ones."""
    if not isinstance(values["dataset"], str):
        raise ValueError("the task's data set is no text")
    pairs = {"reference_scores": 2}
    for name in ("reference_scores", "action_low", "action_high", "action_mean", "action_std"):
        numbers = values.get(name)
        fits = isinstance(numbers, list | tuple) and len(numbers) == pairs.get(name, len(numbers))
        # An environment's space may have no limits.
        allowed = (math.inf, -math.inf) if name in ("action_low", "action_high") else ()
        if numbers is not None and not (
            fits and all(_is_number(x) or (isinstance(x, float) and x in allowed) for x in numbers)
        ):
            raise ValueError(f"the task's {name} are no numbers")
    for name in ("return_scale", "best_return", "best_return_to_go"):
        if values.get(name) is not None and not _is_number(values[name]):
            raise ValueError(f"the task's {name} is no finite number")
    longest = values["longest_episode"]
    if not isinstance(longest, int) or isinstance(longest, bool) or longest < 0:
        raise ValueError("the task's longest_episode is no number of steps")
    if not values["return_scale"] > 0:
        raise ValueError("the task's return_scale is not above 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Some spaces use the largest float32 for "no bound".
_NO_BOUND = 1e30


def _bounds(space: AnySpace) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the lowest and the highest value of each flat column of a space without parts."""
    if isinstance(space, spaces.Box):
        return space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    width = spaces.flatdim(space)
    return np.zeros(width), np.ones(width)


def _action_moments(episodes: Episodes) -> Moments:
    """Compute mean, std and range of recorded actions, whatever bounds the space declares; 0 and 1 for choices."""
    found = column_moments(episodes.actions)
    mean, std, low, high = found.mean, np.where(found.constant, 0.0, found.std), found.low, found.high
    for leaf in leaves(episodes.action_space):
        if not isinstance(leaf.space, spaces.Box):
            mean[leaf.columns], std[leaf.columns] = 0.0, 1.0
            low[leaf.columns], high[leaf.columns] = 0.0, 1.0
    return Moments(mean, std, low, high, found.constant)
