"""An agent among environments: from what they return to tensors, and back to actions that they take.

Shapes: B environments, O flat observation width, A flat action width, S state size.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from minrl.agent import Actor, Moment
from minrl.data.spaces import AnySpace, flatten, leaves, whole_bounds


class Player:
    """An agent that acts in B environments at once and carries its state from call to call.

    Args:
        agent: any agent.
        batch_size: B.
        target_return: what to ask for, one or (B,); the agent's own by default.
        deterministic: the most likely action instead of a sample.
    """

    def __init__(
        self,
        agent: Actor,
        batch_size: int,
        *,
        target_return: float | npt.ArrayLike | None = None,
        deterministic: bool = True,
    ) -> None:
        self.agent, self.batch_size = agent.eval(), batch_size
        self.deterministic = deterministic
        parameter = next(agent.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._real = np.float32 if self.dtype == torch.float32 else np.float64
        observed, taken = agent.task.observation_space, agent.task.action_space
        wide = agent.task.wide_observations
        seen: npt.DTypeLike = np.float64 if wide else np.float32
        self._observed = torch.float64 if wide else self.dtype
        self._flatten = _flatten_box(observed, seen) or partial(flatten, observed, dtype=seen)
        self._unflatten: Callable[[npt.NDArray[Any]], Any] = _unflatten_box(taken) or partial(unflatten, taken)
        target = None if target_return is None else self._tensor(target_return)
        with torch.inference_mode():
            self.state = agent.initial_state(batch_size, target)

    def act(self, observations: Any, rewards: npt.ArrayLike, episode_starts: npt.ArrayLike) -> npt.NDArray[Any] | Any:
        """The actions for a vector environment.

        Args:
            observations: as a vector environment returns them (stacked along the first dimension, in the
                structure of the space).
            rewards: (B,) or (B, 1) earned by the last actions.
            episode_starts: (B,) bool, True where the observation opens an episode.

        Returns:
            Actions in the structure of the batched action space.

        Raises:
            ValueError: if the arguments are not those of B environments: one observation needs a batch axis too.
        """
        with torch.inference_mode():
            moment = Moment(
                observation=torch.from_numpy(np.array(self._rows(observations))).to(self.device, self._observed),
                reward=self._each(self._tensor(rewards).reshape(-1), "rewards"),
                episode_start=self._each(
                    torch.from_numpy(np.array(episode_starts, dtype=np.bool_)).to(self.device), "episode_starts"
                ),
            )
            action, self.state = self.agent.act(moment, self.state, deterministic=self.deterministic)
        return self._unflatten(action.cpu().numpy())

    def _rows(self, observations: Any) -> npt.NDArray[Any]:
        """Return the observations as flat rows (B, O)."""
        try:
            rows = self._flatten(observations)
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise ValueError(f"{self._expected(observations)} ({' '.join(str(error).split())})") from error
        if len(rows) != self.batch_size:
            raise ValueError(self._expected(observations))
        return rows

    def _expected(self, observations: Any) -> str:
        """Return what is wrong with observations that do not fit, with the first part whose shape shows it."""
        space, count = self.agent.task.observation_space, self.batch_size
        found = "the observations are"
        for leaf in leaves(space):
            shape = (count, *(leaf.space.shape or ()))
            try:
                given = np.shape(reduce(lambda part, key: part[key], leaf.keys, observations))
            except (TypeError, KeyError, IndexError, ValueError):
                continue
            if given != shape:
                named = "".join(f"[{key!r}]" for key in leaf.keys)
                found = f"observations{named} of shape {given} should have shape {shape}, and are"
                break
        return (
            f"{found} not a batch for {count} environment{'s' if count > 1 else ''}: the first axis of observations, "
            "rewards and episode_starts counts environments, for a single one act(observation[None], [reward], [start])"
        )

    def _each(self, values: Tensor, name: str) -> Tensor:
        """Return values that are one for each environment, (B,)."""
        if values.shape != (self.batch_size,):
            shape = tuple(values.shape)
            raise ValueError(f"{name} must have shape ({self.batch_size},), one for each environment, got {shape}")
        return values

    def _tensor(self, values: npt.ArrayLike) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=self._real)).to(self.device, self.dtype)


def _flatten_box(space: AnySpace, dtype: npt.DTypeLike) -> Callable[[Any], npt.NDArray[Any]] | None:
    """`flatten` for a plain Box, without its walk through the space's parts at each call; None for other spaces."""
    if type(space) is not spaces.Box:
        return None
    width = leaves(space)[0].raw_width
    return lambda values: np.asarray(values, dtype=dtype).reshape(len(values), width)


def _unflatten_box(space: AnySpace) -> Callable[[npt.NDArray[Any]], Any] | None:
    """`unflatten` for a plain Box of real numbers in the same way; None for other spaces."""
    if type(space) is not spaces.Box or np.issubdtype(space.dtype, np.integer):
        return None
    shape, low, high, kind = (-1, *space.shape), space.low, space.high, space.dtype
    return lambda rows: np.clip(rows.reshape(shape), low, high).astype(kind)


def unflatten(space: AnySpace, rows: npt.NDArray[Any]) -> Any:
    """Flattened rows (B, A) as a batch of the space's samples, in its structure and inside its bounds."""
    parts = {leaf.keys: _decoded(leaf.space, rows[:, leaf.columns]) for leaf in leaves(space)}
    return _assembled(space, (), parts)


def _assembled(space: AnySpace, keys: tuple[str | int, ...], parts: dict[tuple[str | int, ...], Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _assembled(part, (*keys, key), parts) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_assembled(part, (*keys, i), parts) for i, part in enumerate(space.spaces))
    return parts[keys]


def _decoded(space: AnySpace, rows: npt.NDArray[Any]) -> Any:
    """Rows of one leaf, (B, P), as a batch of its samples."""
    if isinstance(space, spaces.Box):
        rows, low, high = rows.reshape(-1, *space.shape), space.low, space.high
        if np.issubdtype(space.dtype, np.integer):
            rows, (low, high) = np.rint(rows), whole_bounds(space)
        return np.clip(rows, low, high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return rows.argmax(1).astype(space.dtype) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        cuts = np.cumsum(space.nvec.reshape(-1))[:-1]
        chosen = np.stack([part.argmax(1) for part in np.split(rows, cuts, axis=1)], axis=1)
        return (chosen.reshape(-1, *space.shape) + space.start).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return (rows > 0.5).reshape(-1, *space.shape).astype(space.dtype)
    return tuple(spaces.unflatten(space, row) for row in rows)
