"""Player: an agent that acts in Gymnasium environments, with observations and actions in their spaces.

Shapes: B environments, O flat observation width, A flat action width, S state size.
"""

from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minrl.agent import Actor, Moment
from minrl.data.masks.action_masks import checked_masks
from minrl.data.spaces import flattener, leaves, unflattener
from minrl.system.messages import one_line


class Player:
    """Agent that acts in B environments at once and carries its hidden state from call to call.

    Args:
        agent: any agent.
        batch_size: B.
        target_return: one return to aim for, or (B,); the agent's own by default.
        deterministic: the most likely action instead of a sample.

    Raises:
        ValueError: for no environment, or target returns that are not finite or not one for each environment.
    """

    def __init__(
        self,
        agent: Actor,
        batch_size: int,
        *,
        target_return: float | npt.ArrayLike | None = None,
        deterministic: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is the number of environments, 1 or more, got {batch_size}")
        self.agent, self.batch_size = agent.eval(), batch_size
        self.deterministic = deterministic
        parameter = next(agent.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._real = np.float32 if self.dtype == torch.float32 else np.float64
        observed, taken = agent.task.acting_space, agent.task.action_space
        wide = agent.task.wide_observations
        seen: npt.DTypeLike = np.float64 if wide else np.float32
        self._observed = torch.float64 if wide else self.dtype
        self._flatten, self._unflatten = flattener(observed, seen), unflattener(taken)
        target = None if target_return is None else self._target(target_return)
        with torch.inference_mode():
            self.state = agent.initial_state(batch_size, target)

    def act(
        self, observations: Any, rewards: npt.ArrayLike, episode_starts: npt.ArrayLike, action_masks: Any = None
    ) -> npt.NDArray[Any] | Any:
        """Return actions for a vector environment.

        Args:
            observations: as a vector environment returns them (stacked along the first dimension, in the
                structure of the space).
            rewards: (B,) or (B, 1) of the last actions.
            episode_starts: (B,) bool, True where the observation is the first of an episode.
            action_masks: (B, M) flags of the choices that are allowed, see `minrl.data.masks.action_masks`.

        Returns:
            Actions in the structure of the batched action space.

        Raises:
            ValueError: if the arguments are not of B environments: a single observation needs a batch axis too.
        """
        with torch.inference_mode():
            moment = Moment(
                observation=torch.from_numpy(np.array(self._rows(observations))).to(self.device, self._observed),
                reward=self._each(self._tensor(rewards).reshape(-1), "rewards"),
                episode_start=self._each(
                    torch.from_numpy(np.array(episode_starts, dtype=np.bool_)).to(self.device), "episode_starts"
                ),
                action_masks=self._masks(action_masks),
            )
            action, self.state = self.agent.act(moment, self.state, deterministic=self.deterministic)
        return self._unflatten(action.cpu().numpy())

    def _masks(self, masks: Any) -> Tensor | None:
        if masks is None:
            return None
        flags = checked_masks(self.agent.task.action_space, masks, self.batch_size, "action_masks")
        return torch.from_numpy(flags).to(self.device)

    def _rows(self, observations: Any) -> npt.NDArray[Any]:
        """Return the observations as flat rows (B, O)."""
        try:
            rows = self._flatten(observations)
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise ValueError(f"{self._expected(observations)} ({one_line(error)})") from error
        if len(rows) != self.batch_size:
            raise ValueError(self._expected(observations))
        return rows

    def _expected(self, observations: Any) -> str:
        """Return the message for observations that do not fit, with the first part whose shape is wrong."""
        space, count = self.agent.task.acting_space, self.batch_size
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
            "rewards and episode_starts counts environments; for a single one act(observation[None], [reward], [start])"
        )

    def _each(self, values: Tensor, name: str) -> Tensor:
        """Return `values` if they have the shape (B,); raise ValueError otherwise."""
        if values.shape != (self.batch_size,):
            shape = tuple(values.shape)
            raise ValueError(f"{name} must have shape ({self.batch_size},), one for each environment, got {shape}")
        return values

    def _target(self, target_return: npt.ArrayLike) -> Tensor:
        """Return the target returns, () or (B,); raise ValueError for others."""
        target = self._tensor(target_return)
        if target.dim():
            self._each(target, "target_return")
        if not target.isfinite().all():
            raise ValueError(f"target_return must be finite, got {target_return!r}")
        return target

    def _tensor(self, values: npt.ArrayLike) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=self._real)).to(self.device, self.dtype)
