"""Policies of `minrl collect`: a Stable-Baselines3 file, uniform random, a waypoint controller."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces.utils import flatdim
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage

from minrl.collect.waypoint import WaypointPolicy
from minrl.data.space_match import mismatch
from minrl.online.policy import RecurrentPolicy
from minrl.online.spaces import FittedSpaces
from minrl.system.messages import one_line
from minrl.system.trust import check_pickles

# Saved schedules are pickled code of another Python version; acting does not need them.
UNUSED = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": 0.0, "clip_range_vf": None}


class Policy(Protocol):
    """Interface of a policy. After the same `start`, equal observations give equal actions."""

    name: str

    def start(self, seed: int) -> None:
        """Start an episode: reset the hidden state and seed the sampling."""

    def act(self, observation: Any) -> Any:
        """Return an action of the environment's space for one unbatched observation."""


def open_policy(
    source: str,
    environment: gym.Env[Any, Any],
    *,
    deterministic: bool = False,
    vecnormalize: str | None = None,
) -> Policy:
    """Open the policy `source`: a Stable-Baselines3 .zip, `random`, or `waypoint`.

    Raises:
        ValueError: for an unknown policy, a file that cannot be read, or one of other spaces.
    """
    if source == "random":
        return RandomPolicy(environment.action_space)
    if source == "waypoint":
        return WaypointPolicy(environment, deterministic)
    file = Path(source).expanduser()
    if not file.is_file():
        raise ValueError(f"policy {source!r} is no file; give a Stable-Baselines3 .zip, 'random' or 'waypoint' (mazes)")
    return SavedPolicy(file, environment, deterministic, vecnormalize)


class RandomPolicy:
    """Policy that samples uniformly from the action space."""

    name = "uniform random"

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space

    def start(self, seed: int) -> None:
        self.space.seed(seed)

    def act(self, observation: Any) -> Any:
        return self.space.sample()


class SavedPolicy:
    """Policy from a file of Stable-Baselines3's or sb3-contrib's `save`, recurrent or not.

    Only the policy network is rebuilt from the file, not its algorithm, so no environment, buffer or optimiser is
    needed. DQN's epsilon and MaskablePPO's action masks, which come from the environment, are kept.
    Such a file holds pickled code, which runs on opening: it has to be trusted, see `minrl.system.trust`.
    """

    def __init__(
        self, file: Path, environment: gym.Env[Any, Any], deterministic: bool, vecnormalize: str | None
    ) -> None:
        data, weights = read_zip(file)
        self.fitted = fitted_view(file, data, environment)
        self.network = build(file, data, weights)
        self.name = algorithm(data)
        self.action_space = environment.action_space
        self.deterministic = deterministic
        self.epsilon = 0.0 if deterministic else float(data.get("exploration_rate", 0.0))
        self.masks: Any = None
        if self.name == "MaskablePPO" and environment.has_wrapper_attr("action_masks"):
            self.masks = environment.get_wrapper_attr("action_masks")
        self.resample_noise = bool(data.get("use_sde")) and not deterministic
        self.normaliser = None if vecnormalize is None else read_vecnormalize(vecnormalize, environment)

    def start(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.random = np.random.default_rng(seed)
        self.action_space.seed(seed)
        self.state: Any = None
        self.first = True
        if self.resample_noise:
            self.network.reset_noise()

    def act(self, observation: Any) -> Any:
        if self.fitted is not None:
            observation = self.fitted.observation(observation)
        if self.normaliser is not None:
            observation = self.normaliser.normalize_obs(observation)
        masks = {} if self.masks is None else {"action_masks": self.masks()}
        action, self.state = self.network.predict(
            observation, self.state, np.array([self.first]), self.deterministic, **masks
        )
        self.first = False
        if self.epsilon and self.random.random() < self.epsilon:
            return self.action_space.sample()
        return action if self.fitted is None else self.fitted.action(action)


def read_zip(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the constructor's data and the policy's weights from a Stable-Baselines3 file that is trusted."""
    check_pickles(file)
    try:
        data, parameters, _ = load_from_zip_file(file, custom_objects=UNUSED, device="cpu")
    except Exception as error:  # zip, JSON, pickle and torch raise their own classes
        raise ValueError(f"{file}: not a readable Stable-Baselines3 file ({one_line(error)})") from error
    needed = {"policy_class", "observation_space", "action_space"}
    if not data or not needed <= data.keys() or "policy" not in parameters:
        raise ValueError(
            f"{file}: it holds no policy; was it written by a Stable-Baselines3 algorithm's save(), and is its "
            "policy's package (such as sb3-contrib) installed?"
        )
    return data, dict(parameters["policy"])


def build(file: Path, data: dict[str, Any], weights: dict[str, Any]) -> Any:
    """Build the policy network (a Stable-Baselines3 `BasePolicy`) with the saved weights, on the CPU."""
    policy_class = data["policy_class"]
    arguments = dict(data.get("policy_kwargs") or {})
    # On-policy algorithms pass gSDE beside policy_kwargs, off-policy ones inside.
    if data.get("use_sde"):
        arguments["use_sde"] = True
    schedule = () if policy_class.__module__.startswith("sb3_contrib.ars") else (UNUSED["lr_schedule"],)
    try:
        network = policy_class(data["observation_space"], data["action_space"], *schedule, **arguments)
        network.load_state_dict(weights)
    except Exception as error:  # a custom policy's constructor may raise anything
        raise ValueError(f"{file}: its policy cannot be rebuilt ({one_line(error)})") from error
    if not isinstance(network, BasePolicy):
        raise ValueError(f"{file}: its policy_class {policy_class.__name__} is no Stable-Baselines3 policy")
    return network.to("cpu")


def algorithm(data: dict[str, Any]) -> str:
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


def fitted_view(file: Path, data: dict[str, Any], environment: gym.Env[Any, Any]) -> FittedSpaces | None:
    """Return the wrapper that gives the environment the spaces of the policy's training; None if it has them itself.

    Raises:
        ValueError: if they are neither its own nor those of `fit_spaces`, or a policy of Stable-Baselines3 was trained
            with choices that do not begin at 0.
    """
    trained = data["observation_space"], data["action_space"]
    if _same_spaces(trained, environment):
        if np.any(getattr(trained[1], "start", 0)) and not issubclass(data["policy_class"], RecurrentPolicy):
            raise ValueError(
                f"{file}: trained with {trained[1]}, whose choices Stable-Baselines3 counts from 0: train it in the "
                "environment wrapped by minrl.online.spaces.fit_spaces"
            )
        return None
    try:
        view = FittedSpaces(environment)
    except ValueError:  # spaces that no policy of Stable-Baselines3 can have been trained with
        view = None
    if view is None or not _same_spaces(trained, view):
        for name, known in zip(("observation_space", "action_space"), trained, strict=True):
            actual = getattr(environment, name)
            if not _same_space(known, actual):
                raise ValueError(f"{file}: trained with {name} {known}, but the environment's is {actual}")
    return view


def _same_spaces(trained: tuple[Any, Any], environment: gym.Env[Any, Any]) -> bool:
    return _same_space(trained[0], environment.observation_space) and _same_space(trained[1], environment.action_space)


def _same_space(trained: gym.Space[Any], actual: gym.Space[Any]) -> bool:
    """Return True if the spaces match, except for the channels of images, which Stable-Baselines3 puts first."""
    return any(mismatch(trained, space, "action") is None for space in (actual, _channels_first(actual)))


def _channels_first(space: gym.Space[Any]) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(key, _channels_first(part)) for key, part in space.items()])
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def read_vecnormalize(path: str, environment: gym.Env[Any, Any]) -> VecNormalize:
    """Read the observation statistics that `VecNormalize.save` wrote to a file that is trusted."""
    file = Path(path).expanduser()
    if file.is_file():
        check_pickles(file)
    try:
        with file.open("rb") as stream:
            normaliser = pickle.load(stream)
    except Exception as error:  # damaged pickles may raise anything
        raise ValueError(
            f"{path}: not a readable VecNormalize file ({one_line(error)}); give what its save() wrote"
        ) from error
    if not isinstance(normaliser, VecNormalize):
        raise ValueError(f"{path}: holds a {type(normaliser).__name__}, not a VecNormalize")
    if flatdim(normaliser.observation_space) != flatdim(environment.observation_space):
        raise ValueError(
            f"{path}: made for observations {normaliser.observation_space}, but the environment's are "
            f"{environment.observation_space}"
        )
    return normaliser
