"""An agent among environments: from what they return to tensors, and back to actions that they take.

Shapes: B environments, O flat observation width, A flat action width, S state size.
"""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from torch import Tensor

from minrl.agent import Agent, Moment
from minrl.data.spaces import AnySpace, flatten


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
        agent: Agent,
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
    """Flattened rows (B, A) as a batch of the space's samples, inside its bounds."""
    if isinstance(space, spaces.Box):
        return np.clip(rows.reshape(-1, *space.shape), space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return rows.argmax(1).astype(space.dtype) + space.start
    samples = [_clipped(space, spaces.unflatten(space, row)) for row in rows]
    batch: Any = create_empty_array(space, n=len(rows))
    return concatenate(space, samples, batch)


def _clipped(space: gymnasium.Space[Any], sample: Any) -> Any:
    """A sample whose Box parts lie inside their bounds."""
    if isinstance(space, spaces.Box):
        return np.clip(sample, space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Dict):
        return {key: _clipped(part, sample[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_clipped(part, s) for part, s in zip(space.spaces, sample, strict=True))
    return sample
