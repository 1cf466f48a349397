"""An agent among environments: from what they return to tensors, and back to actions that they take.

Shapes: B environments, O flat observation width, A flat action width, S state size.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from minrl.agent import Actor, Moment
from minrl.data.spaces import AnySpace, flatten, leaves


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
        self.agent = agent.eval()
        self.deterministic = deterministic
        parameter = next(agent.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        target = None if target_return is None else self._tensor(np.asarray(target_return))
        with torch.inference_mode():
            self.state = agent.initial_state(batch_size, target)

    def act(self, observations: Any, rewards: npt.ArrayLike, episode_starts: npt.ArrayLike) -> npt.NDArray[Any] | Any:
        """The actions for a vector environment.

        Args:
            observations: as a vector environment returns them (stacked along the first dimension, in the
                structure of the space).
            rewards: (B,) earned by the last actions.
            episode_starts: (B,) bool, True where the observation opens an episode.

        Returns:
            Actions in the structure of the batched action space.
        """
        with torch.inference_mode():
            moment = Moment(
                observation=self._tensor(flatten(self.agent.task.observation_space, observations)),
                reward=self._tensor(np.asarray(rewards)),
                episode_start=torch.as_tensor(np.asarray(episode_starts, dtype=np.bool_), device=self.device),
            )
            action, self.state = self.agent.act(moment, self.state, deterministic=self.deterministic)
        return unflatten(self.agent.task.action_space, action.cpu().numpy())

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.as_tensor(values, device=self.device).to(self.dtype)


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
        rows = np.rint(rows) if np.issubdtype(space.dtype, np.integer) else rows
        return np.clip(rows.reshape(-1, *space.shape), space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return rows.argmax(1).astype(space.dtype) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        cuts = np.cumsum(space.nvec.reshape(-1))[:-1]
        chosen = np.stack([part.argmax(1) for part in np.split(rows, cuts, axis=1)], axis=1)
        return (chosen.reshape(-1, *space.shape) + space.start).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return (rows > 0.5).reshape(-1, *space.shape).astype(space.dtype)
    return tuple(spaces.unflatten(space, row) for row in rows)
