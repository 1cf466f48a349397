"""Policies whose own code is needed to act, opened by Stable-Baselines3 with the user's consent.

Shapes: B environments, S state size.
"""

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from minrl.agent import Actor, Moment
from minrl.data.space_match import mismatch
from minrl.data.spaces import AnySpace
from minrl.data.task import Task
from minrl.online.flat_spaces import PolicySpaces
from minrl.online.inputs.segments import each
from minrl.online.policy import RecurrentPolicy
from minrl.system.messages import one_line
from minrl.system.trust import check_pickles
from minrl.zoo.spaces import parts_of
from minrl.zoo.statistics import Standardizer, Statistics

# Saved schedules are pickled code of another Python version; acting does not need them.
_UNUSED = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": 0.0, "clip_range_vf": None}


@dataclass(frozen=True)
class TrustedConfig:
    """Settings of a policy whose layers its own code alone knows: the name of its class or algorithm."""

    algorithm: str


class TrustedAgent(Actor):
    """Policy network of a trusted file, which acts by its own `predict`.

    Only the network is rebuilt, not its algorithm, so no environment, buffer or optimiser is needed.

    Args:
        file: path of the .zip, for errors.
        task: of the environment.
        statistics: of a VecNormalize.

    Raises:
        ValueError: if it cannot be opened or does not fit the environment.
    """

    name = "zip"
    config_class = TrustedConfig
    config: TrustedConfig

    def __init__(self, file: Path, task: Task, statistics: Statistics | None) -> None:
        data, weights = _read(file)
        super().__init__(TrustedConfig(_algorithm(data)), task)
        self.spaces = _fitted(file, data, task)
        self.network = _build(file, data, weights)
        self.epsilon = float(data.get("exploration_rate", 0.0))
        self.draws_noise = bool(data.get("use_sde"))
        self.start = np.asarray(getattr(data["action_space"], "start", 0))
        self.standardizer: Standardizer | None = None
        if statistics is not None:
            self.standardizer = Standardizer(task.observation_size)
            parts = parts_of(None, task.observation_space, str(file))
            self.standardizer.copy_statistics(statistics, parts)
        self._shapes = self._state_shapes()
        self.state_size = sum(math.prod(shape) // shape[axis] for shape, axis in self._shapes)

    @property
    def algorithm(self) -> str:
        """Name of the algorithm that trained it."""
        return self.config.algorithm

    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        """Return the initial state as `Actor.initial_state` does; a target return has no effect."""
        return torch.zeros(batch_size, self.state_size)

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        """Act as `Actor.act` does."""
        flat = moment.observation if self.standardizer is None else self.standardizer(moment.observation)
        seen = each(self.spaces.observations(flat), Tensor.numpy)
        starts = moment.episode_start.numpy()
        if self.draws_noise and not deterministic and starts.any():
            self.network.reset_noise(len(state))
        named = {} if moment.action_masks is None else {"action_masks": moment.action_masks.numpy()}
        action, after = self.network.predict(seen, self._parts(state), starts, deterministic, **named)
        if self.epsilon and not deterministic:
            explores = torch.rand(len(state)).numpy() < self.epsilon
            action = np.where(explores, torch.randint(int(self.network.action_space.n), (len(state),)).numpy(), action)
        taken = torch.from_numpy(np.asarray(action) - self.start).reshape(len(state), -1)
        rows = [torch.from_numpy(np.moveaxis(part, axis, 0).reshape(len(state), -1)) for part, (_, axis) in zip(
            after or (), self._shapes, strict=True
        )]  # fmt: skip
        return self.spaces.flat_actions(taken), torch.cat(rows, dim=1).float() if rows else state

    def _parts(self, state: Tensor) -> tuple[Any, ...] | None:
        """Convert a state (B, S) to the arrays of `predict`."""
        parts, first = [], 0
        for shape, axis in self._shapes:
            rest = [n for place, n in enumerate(shape) if place != axis]
            width = math.prod(rest)
            part = state[:, first : first + width].numpy().reshape(len(state), *rest)
            parts.append(np.ascontiguousarray(np.moveaxis(part, 0, axis)))
            first += width
        return tuple(parts) or None

    def _state_shapes(self) -> list[tuple[tuple[int, ...], int]]:
        """Return the shapes of the arrays of a state for two environments, and the axis that counts these."""
        found = []
        for count in (2, 3):
            seen = each(self.spaces.observations(torch.zeros(count, self.task.observation_size)), Tensor.numpy)
            _, state = self.network.predict(seen, None, np.ones(count, np.bool_), True)
            found.append([np.shape(part) for part in state or ()])
        return [
            (two, next(axis for axis, (a, b) in enumerate(zip(two, three, strict=True)) if a != b))
            for two, three in zip(*found, strict=True)
        ]


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the constructor's data and the policy's weights by Stable-Baselines3's own loader."""
    check_pickles(file)
    try:
        data, parameters, _ = load_from_zip_file(file, custom_objects=_UNUSED, device="cpu")
    except Exception as error:  # zip, JSON, pickle and torch raise their own classes
        raise ValueError(f"{file}: not a readable Stable-Baselines3 file ({one_line(error)})") from error
    needed = {"policy_class", "observation_space", "action_space"}
    if not data or not needed <= data.keys() or "policy" not in parameters:
        raise ValueError(
            f"{file}: it holds no policy; was it written by a Stable-Baselines3 algorithm's save(), and is its "
            "policy's package (such as sb3-contrib) installed?"
        )
    return data, dict(parameters["policy"])


def _build(file: Path, data: dict[str, Any], weights: dict[str, Any]) -> Any:
    """Build the policy network (a Stable-Baselines3 `BasePolicy`) with the saved weights, on the CPU."""
    policy_class = data["policy_class"]
    arguments = dict(data.get("policy_kwargs") or {})
    # On-policy algorithms pass gSDE beside policy_kwargs, off-policy ones inside.
    if data.get("use_sde"):
        arguments["use_sde"] = True
    schedule = () if policy_class.__module__.startswith("sb3_contrib.ars") else (_UNUSED["lr_schedule"],)
    try:
        network = policy_class(data["observation_space"], data["action_space"], *schedule, **arguments)
        network.load_state_dict(weights)
    except Exception as error:  # a custom policy's constructor may raise anything
        raise ValueError(f"{file}: its policy cannot be rebuilt ({one_line(error)})") from error
    if not isinstance(network, BasePolicy):
        raise ValueError(f"{file}: its policy_class {policy_class.__name__} is no Stable-Baselines3 policy")
    return network.to("cpu")


def _fitted(file: Path, data: dict[str, Any], task: Task) -> PolicySpaces:
    """Return the conversion between the environment's spaces and the policy's.

    Raises:
        ValueError: if they do not fit, or a policy of Stable-Baselines3 has choices that do not begin at 0.
    """
    trained = data["observation_space"], data["action_space"]
    if np.any(getattr(trained[1], "start", 0)) and not issubclass(data["policy_class"], RecurrentPolicy):
        raise ValueError(
            f"{file}: trained with {trained[1]}, whose choices Stable-Baselines3 counts from 0: train it in the "
            "environment wrapped by minrl.online.spaces.fit_spaces"
        )
    fitted = PolicySpaces(task.observation_space, task.action_space)
    pairs = ("observation", fitted.observation_space), ("action", fitted.action_space)
    for (kind, seen), known, actual in zip(pairs, trained, (task.observation_space, task.action_space), strict=True):
        if mismatch(_from_zero(known), _from_zero(seen), "action") is not None:
            raise ValueError(f"{file}: trained with {kind}_space {known}, but the environment's is {actual}")
    return fitted


def _from_zero(space: AnySpace) -> AnySpace:
    """Return a space whose choices count from 0."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, _from_zero(part)) for key, part in space.spaces.items()])
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    return spaces.MultiDiscrete(space.nvec) if isinstance(space, spaces.MultiDiscrete) else space


def _algorithm(data: dict[str, Any]) -> str:
    """Infer the algorithm's name, which the file does not state, from its policy's module and settings."""
    module = str(data["policy_class"].__module__).split(".")
    if module[0] not in ("stable_baselines3", "sb3_contrib"):
        return str(data["policy_class"].__name__)
    package = module[-2]
    if package == "maskable":
        return "MaskablePPO"
    if package == "recurrent":
        return "RecurrentPPO"
    if package == "common":
        return "PPO" if "clip_range" in data else "TRPO" if "cg_max_steps" in data else "A2C"
    if package == "td3" and data.get("policy_delay") == 1:
        return "DDPG"
    return {"crossq": "CrossQ", "qrdqn": "QR-DQN"}.get(package, package.upper())


def trusted_statistics(file: Path) -> Statistics | None:
    """Read a pickled VecNormalize, of whatever class, from a trusted file; None if it normalises no observations."""
    check_pickles(file)
    try:
        with file.open("rb") as stream:
            found = pickle.load(stream)
    except Exception as error:  # damaged pickles may raise anything
        raise ValueError(
            f"{file}: not a readable VecNormalize file ({one_line(error)}); give what its save() wrote"
        ) from error
    if not isinstance(found, VecNormalize):
        raise ValueError(f"{file}: holds a {type(found).__name__}, not a VecNormalize")
    if not found.norm_obs:
        return None
    parts = found.obs_rms if isinstance(found.obs_rms, dict) else {"": found.obs_rms}
    moments = {name: (np.asarray(part.mean), np.asarray(part.var)) for name, part in parts.items()}
    return Statistics(file, moments, float(found.epsilon), float(found.clip_obs))
