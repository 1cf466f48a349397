"""Teacher: an actor that labels the steps of vectorised environments, and may see other parts of them than the student.

Shapes: B environments, O the teacher's flat observation width, W width of an action as a policy samples it, K
parameters of a distribution, S state size.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from minrl.agent import Actor, Moment, StochasticActor
from minrl.data.masks.action_masks import MASKED
from minrl.data.spaces import AnySpace, leaves
from minrl.system.messages import one_line
from minrl.system.names import nearest


def teacher_space(space: AnySpace, keys: Sequence[str]) -> AnySpace:
    """Return the part of an observation space that the teacher sees: all without `keys`, with one key its value.

    Raises:
        ValueError: for a key that the observation does not have.
    """
    if not keys:
        return space
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"teacher_keys name parts of a Dict observation, and this one is {one_line(space)}")
    for key in keys:
        if key not in space.spaces:
            raise ValueError(f'teacher_keys: the observation has no key "{key}"; {nearest(key, space.spaces)}')
    return space[keys[0]] if len(keys) == 1 else spaces.Dict([(key, space[key]) for key in keys])


def fingerprint(teacher: Actor) -> str:
    """Return the SHA-256 of a teacher's weights."""
    found = hashlib.sha256()
    for name, value in teacher.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Teacher:
    """Actor in B environments, whose hidden state it carries.

    Args:
        actor: acts by its likeliest actions.
        observation_space, action_space: of the vectorised environments.
        keys: of a Dict observation that the actor sees, as for `teacher_space`.

    Raises:
        ValueError: if the actor does not fit what it would see, or the actions.
    """

    def __init__(
        self, actor: Actor, observation_space: AnySpace, action_space: AnySpace, keys: Sequence[str] = ()
    ) -> None:
        self.actor, self.task = actor.eval(), actor.task
        self._observed, self._acted = leaves(self.task.acting_space), leaves(self.task.action_space)
        self._action_space = action_space
        self._parts = dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else {}
        first = tuple(keys) if len(keys) == 1 else ()
        self._names = ["/".join(map(str, (*first, *leaf.keys))) for leaf in self._observed]
        if not self._parts:
            self._parts = {"": observation_space}
        missing = [name for name in self._names if name not in self._parts]
        if missing:
            raise ValueError(f'the teacher reads "{missing[0]}", which the observation does not have')
        width = sum(leaf.raw_width for leaf in self._acted)
        if width != int(np.prod(action_space.shape or ())):
            raise ValueError(f"the teacher's actions {one_line(self.task.action_space)} are not the environment's")

    @torch.no_grad()
    def parameters(self) -> int:
        """Return K, 0 for an actor without a distribution of a known kind."""
        if not isinstance(self.actor, StochasticActor):
            return 0
        kind = torch.float64 if self.task.wide_observations else torch.float32
        seen = torch.zeros(1, self.task.observation_size, dtype=kind)
        moment = Moment(seen, torch.zeros(1), torch.ones(1, dtype=torch.bool))
        found = self.actor.act_with_parameters(moment, self.actor.initial_state(1))[1]
        return 0 if found is None else found.shape[1]

    def begin(self, n_envs: int) -> None:
        """Reset the hidden state."""
        with torch.no_grad():
            self.state = self.actor.initial_state(n_envs)

    @torch.no_grad()
    def label(
        self, observations: Any, rewards: Any, starts: Any, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the likeliest actions (B, W), choices counted from 0, and the parameters (B, K) of its distribution.

        Args:
            observations: of the vectorised environments, not normalised.
            rewards: (B,) of the last actions.
            starts: (B,) bool, True where an episode begins.
            masks: (B, K) added to the student's logits.
        """
        moment = Moment(
            torch.from_numpy(self._rows(observations)),
            torch.from_numpy(np.asarray(rewards, np.float32)),
            torch.from_numpy(np.asarray(starts, np.bool_)),
            None if masks is None else _flags(self._action_space, masks.cpu()),
        )
        parameters = None
        if isinstance(self.actor, StochasticActor):
            action, parameters, self.state = self.actor.act_with_parameters(moment, self.state)
        else:
            action, self.state = self.actor.act(moment, self.state)
        rows = []
        for leaf in self._acted:
            columns = action[:, leaf.columns]
            if isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete):
                counts = np.reshape(getattr(leaf.space, "nvec", columns.shape[1]), -1).tolist()
                columns = torch.stack([part.argmax(1) for part in columns.split(counts, dim=1)], dim=1)
            rows.append(columns.to(torch.float32))
        return torch.cat(rows, dim=1), parameters

    def _rows(self, observations: Any) -> Any:
        """Return observations as flat rows (B, O)."""
        rows = []
        for name, leaf in zip(self._names, self._observed, strict=True):
            values, given = np.asarray(observations[name] if name else observations), self._parts[name]
            if isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete):
                counted = torch.from_numpy(values.reshape(len(values), -1).astype(np.int64))
                counted = counted - torch.from_numpy(np.asarray(getattr(given, "start", 0), np.int64)).reshape(-1)
                sizes = np.reshape(getattr(leaf.space, "nvec", getattr(leaf.space, "n", 0)), -1).tolist()
                hot = [F.one_hot(part, n) for part, n in zip(counted.unbind(1), sizes, strict=True)]
                values = torch.cat(hot, dim=1).numpy()
            elif values.ndim == 4 and values.shape[1:] != leaf.space.shape:
                values = np.moveaxis(values, 1, -1)  # an image whose channels were moved to the front
            rows.append(values.reshape(len(values), -1))
        kind = np.float64 if self.task.wide_observations else np.float32
        return np.concatenate(rows, axis=1).astype(kind)


def _flags(space: AnySpace, added: Tensor) -> Tensor:
    """Convert what masks add to logits (B, K) to flags (B, M) of the choices that are allowed."""
    if not isinstance(space, spaces.MultiBinary):
        return added > MASKED / 2
    return torch.stack([added < -MASKED / 2, added > MASKED / 2], dim=2).flatten(1)
