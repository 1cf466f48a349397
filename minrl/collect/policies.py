"""Policies of `minrl collect`: a Stable-Baselines3 file, uniform random, a waypoint controller, a guide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch

from minrl.agent import Moment
from minrl.collect.guides import Guide
from minrl.collect.waypoint import WaypointPolicy
from minrl.data.masks.action_masks import checked_masks, draw_allowed, mask_size
from minrl.zoo import find_statistics, load_zip
from minrl.zoo.batches import from_rows, to_rows

_WITHOUT_FILE = ("random", "waypoint", "guide")


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
    """Open the policy `source`: a Stable-Baselines3 .zip, `random`, `waypoint` (mazes) or `guide` (memory tasks).

    Raises:
        ValueError: for an unknown policy, a file that cannot be read, or one of other spaces.
    """
    if source == "random":
        return RandomPolicy(environment)
    if source == "waypoint":
        return WaypointPolicy(environment, deterministic)
    if source == "guide":
        return Guide(environment)
    file = Path(source).expanduser()
    if not file.is_file():
        what = "no regular file" if file.exists() else "no file"
        raise ValueError(
            f"policy {source!r} is {what}; give a Stable-Baselines3 .zip, 'random', 'waypoint' (mazes) or "
            "'guide' (memory tasks)"
        )
    return SavedPolicy(file, environment, deterministic, vecnormalize)


def check_statistics(sources: Sequence[str], vecnormalize: str | None) -> None:
    """Raise ValueError for a file of statistics that none of the policies `sources` reads."""
    if vecnormalize not in (None, "none") and set(sources) <= set(_WITHOUT_FILE):
        raise ValueError(f"--vecnormalize is for a policy's .zip; {' and '.join(sources)} would ignore {vecnormalize}")


class RandomPolicy:
    """Policy that samples uniformly from the action space, or where the environment masks actions, from the allowed."""

    name = "uniform random"

    def __init__(self, environment: gym.Env[Any, Any]) -> None:
        self.space = environment.action_space
        self.masks: Any = None
        if environment.has_wrapper_attr("action_masks") and mask_size(self.space):
            self.masks = environment.get_wrapper_attr("action_masks")

    def start(self, seed: int) -> None:
        self.space.seed(seed)
        self.random = np.random.default_rng(seed)

    def act(self, observation: Any) -> Any:
        if self.masks is None:
            return self.space.sample()
        mask = checked_masks(self.space, self.masks(), 1, "action_masks()")[0]
        return draw_allowed(self.space, mask, self.random)


class SavedPolicy:
    """Policy from a file of Stable-Baselines3's or sb3-contrib's `save`, recurrent or not.

    `minrl.zoo` opens it: what that can read runs no code of the file, all else has to be trusted. DQN's epsilon and
    MaskablePPO's action masks, which come from the environment, are kept.
    """

    def __init__(
        self, file: Path, environment: gym.Env[Any, Any], deterministic: bool, vecnormalize: str | None
    ) -> None:
        self.agent = load_zip(file, environment, vecnormalize=find_statistics(file, vecnormalize))
        self.name = self.agent.algorithm
        self.deterministic = deterministic
        self.masks: Any = None
        if self.name == "MaskablePPO" and environment.has_wrapper_attr("action_masks"):
            self.masks = environment.get_wrapper_attr("action_masks")

    def start(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.state, self.first = self.agent.initial_state(1), True

    def act(self, observation: Any) -> Any:
        rows, _ = to_rows(self.agent.task, observation)
        masks = None if self.masks is None else torch.from_numpy(np.asarray(self.masks(), np.bool_).reshape(1, -1))
        moment = Moment(rows, torch.zeros(1), torch.tensor([self.first]), masks)
        with torch.inference_mode():
            action, self.state = self.agent.act(moment, self.state, deterministic=self.deterministic)
        self.first = False
        return from_rows(self.agent.task, action, batched=False)
