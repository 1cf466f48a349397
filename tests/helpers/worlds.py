"""Small environments and data sets that tests of agents, training and evaluation share.

Shapes: T steps, B environments.
"""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from minrl.collect.record import collect
from minrl.data import EnvironmentInfo, Episodes, build_episodes

# Every kind of space, nested.
MIXED = spaces.Dict(
    {
        "move": spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64),
        "pick": spaces.Tuple([spaces.Discrete(3, start=-1), spaces.MultiDiscrete([2, 4])]),
        "flags": spaces.MultiBinary(2),
    }
)
ACTIONS: dict[str, gymnasium.Space[Any]] = {
    "box": spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64),
    "whole": spaces.Box(-3, 4, (2,), np.int64),
    "discrete": spaces.Discrete(3, start=-1),
    "multidiscrete": spaces.MultiDiscrete([2, 4]),
    "multibinary": spaces.MultiBinary(3),
    "mixed": MIXED,
}


class Drift(gymnasium.Env[Any, Any]):
    """Environment of a point that drifts at random and by the action; random ends, rewards of any sign."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)  # float32, as in data sets

    def __init__(self, actions: str = "box") -> None:
        self.action_space = ACTIONS[actions]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.point = self.np_random.normal(size=3)
        return self.point.astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        push = spaces.flatten(self.action_space, action).astype(np.float64).sum()
        self.point += 0.3 * self.np_random.normal(size=3) + 0.01 * push
        chance = self.np_random.random()
        return self.point.astype(np.float32), float(self.point[0] + 0.1 * push), chance < 0.03, 0.03 < chance < 0.05, {}


def drift_episodes(actions: str = "box", count: int = 12, seed: int = 0) -> Episodes:
    """Record episodes of random actions in `Drift`, in memory."""
    world = Drift(actions)
    world.action_space.seed(seed)
    columns: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "rewards", "finals", "lengths")}
    ends = []
    for episode in range(count):
        observation, _ = world.reset(seed=seed + episode)
        start, ended = len(columns["rewards"]), (False, False)
        while not any(ended):
            action = world.action_space.sample()
            columns["observations"].append(observation)
            columns["actions"].append(spaces.flatten(world.action_space, action))
            observation, reward, *flags, _ = world.step(action)
            columns["rewards"].append(reward)
            ended = (flags[0], flags[1])
        columns["finals"].append(observation)
        columns["lengths"].append(len(columns["rewards"]) - start)
        ends.append(ended)
    return build_episodes(
        name="drift",
        observations=columns["observations"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        final_observations=columns["finals"],
        lengths=columns["lengths"],
        terminated=[end[0] for end in ends],
        truncated=[end[1] for end in ends],
        observation_space=world.observation_space,
        action_space=world.action_space,
        environment=EnvironmentInfo("Drift-v0", {"actions": actions}),
        reference_scores=(-10.0, 30.0),
    )


@pytest.fixture
def drift_registered() -> Any:
    """Register `Drift-v0` with Gymnasium while a test runs."""
    gymnasium.register("Drift-v0", entry_point=Drift)
    yield
    del gymnasium.registry["Drift-v0"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a home, a cache and folders of data sets for the test alone."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    for name in ("RANK", "WORLD_SIZE", "MINRL_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@cache
def _recorded() -> "tempfile.TemporaryDirectory[str]":
    """Record random play in CartPole once for all tests of a process, each of which gets a copy."""
    folder = tempfile.TemporaryDirectory(prefix="minrl-tests-")
    scores = {"ref_min_score": 10.0, "ref_max_score": 500.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", folder.name)
        collect("random", "CartPole-v1", 30, "test/cartpole-v0", progress=False, metadata=scores)
    return folder


@pytest.fixture
def cartpole() -> str:
    """Return the name of a data set of random play in CartPole, with reference scores."""
    shutil.copytree(_recorded().name, os.environ["MINARI_DATASETS_PATH"], dirs_exist_ok=True)
    return "minari:test/cartpole-v0"


TINY = ("--width", 16, "--depth", 1, "--batch-size", 2, "--length", 32, "--threads", 1)
