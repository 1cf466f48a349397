"""Policies of a collection act as saved: every algorithm, its state, normalisation and randomness.

Shapes: T steps of one episode.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from minrl.collect.record import collect
from minrl.collect.waypoint import distances


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def quietly(policy: Any, environment: str, episodes: int, out: str = "tests/set-v0", **options: Any) -> Any:
    collect(policy, environment, episodes, out, progress=False, trust=True, **options)
    return minari.load_dataset(out)


@pytest.mark.parametrize(
    ("algorithm", "environment", "options"),
    [
        (PPO, "CartPole-v1", {}),
        (A2C, "Pendulum-v1", {"use_sde": True}),
        (DQN, "CartPole-v1", {"buffer_size": 10}),
        (SAC, "Pendulum-v1", {"buffer_size": 10}),
        (TD3, "Pendulum-v1", {"buffer_size": 10}),
        (DDPG, "Pendulum-v1", {"buffer_size": 10}),
    ],
)
def test_a_saved_policy_acts_as_its_algorithm(algorithm: Any, environment: str, options: Any, tmp_path: Path) -> None:
    model = algorithm("MlpPolicy", environment, seed=1, device="cpu", **options)
    file = tmp_path / "policy.zip"
    model.save(file)
    dataset = quietly(str(file), environment, 2, deterministic=True)
    reference = algorithm.load(file, device="cpu")
    for episode in dataset.iterate_episodes():
        for observation, action in zip(episode.observations, episode.actions, strict=False):
            np.testing.assert_array_equal(reference.predict(observation, deterministic=True)[0], action)
    assert json.loads(Path(dataset.spec.data_path, "metadata.json").read_text())["algorithm_name"] == algorithm.__name__
    drawn = quietly(str(file), environment, 2, "tests/drawn-v0")
    if algorithm not in (
        DQN,
        TD3,
        DDPG,
    ):  # an untrained DQN has an exploration rate of 0, TD3 and DDPG are deterministic
        assert not np.array_equal(drawn[0].actions[:8], dataset[0].actions[:8])


def test_a_trained_policys_draws_depend_on_the_seed_alone(tmp_path: Path) -> None:
    file = tmp_path / "ppo.zip"
    PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=0, device="cpu").learn(64).save(file)
    first, again, other = (
        quietly(str(file), "CartPole-v1", 5, f"tests/{name}-v0", seed=seed)
        for name, seed in [("first", 3), ("again", 3), ("other", 4)]
    )
    for left, right in zip(first.iterate_episodes(), again.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(left.observations, right.observations)
    assert not np.array_equal(first[0].observations[0], other[0].observations[0])


def test_a_recurrent_policy_carries_its_state_within_an_episode(tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    file = tmp_path / "recurrent.zip"
    contrib.RecurrentPPO("MlpLstmPolicy", "Pendulum-v1", seed=0, device="cpu").save(file)
    dataset = quietly(str(file), "Pendulum-v1", 2, deterministic=True)
    reference = contrib.RecurrentPPO.load(file, device="cpu")
    forgetful = []
    for episode in dataset.iterate_episodes():
        state, start = None, np.array([True])
        for observation, action in zip(episode.observations, episode.actions, strict=False):
            expected, state = reference.predict(observation, state, start, deterministic=True)
            start = np.array([False])
            np.testing.assert_allclose(expected, action, atol=1e-6)
            forgetful.append(np.allclose(reference.predict(observation, deterministic=True)[0], action))
    assert np.mean(forgetful) < 0.1


def test_saved_normalisation_reaches_the_policy(tmp_path: Path) -> None:
    environments = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    model = PPO("MlpPolicy", environments, n_steps=128, seed=0, device="cpu").learn(128)
    file, statistics = str(tmp_path / "ppo.zip"), str(tmp_path / "statistics.pkl")
    model.save(file)
    environments.save(statistics)
    dataset = quietly(file, "Pendulum-v1", 1, deterministic=True, vecnormalize=statistics)
    observations = dataset[0].observations[:-1]
    expected = [model.predict(environments.normalize_obs(o), deterministic=True)[0] for o in observations]
    np.testing.assert_allclose(dataset[0].actions, expected, atol=1e-6)
    raw = [model.predict(observation, deterministic=True)[0] for observation in observations]
    assert np.abs(np.array(raw) - dataset[0].actions).max() > 1e-3


def test_several_policies_act_one_after_another(tmp_path: Path) -> None:
    file = tmp_path / "ppo.zip"
    PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu").save(file)
    both = quietly(["random", str(file)], "CartPole-v1", 3, "tests/both-v0", deterministic=True)
    alone = quietly("random", "CartPole-v1", 3, "tests/alone-v0")
    assert both.total_episodes == 6
    reference = PPO.load(file, device="cpu")
    for index in range(3):
        np.testing.assert_array_equal(both[index].observations, alone[index].observations)
        saved = both[3 + index]
        expected, _ = reference.predict(saved.observations[:-1], deterministic=True)
        np.testing.assert_array_equal(expected, saved.actions)


def test_dqn_explores_with_its_own_epsilon(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", seed=1, device="cpu", buffer_size=10)
    model.exploration_rate = 0.5
    file = tmp_path / "dqn.zip"
    model.save(file)
    dataset = quietly(str(file), "CartPole-v1", 60)
    different = [
        model.predict(episode.observations[:-1], deterministic=True)[0] != episode.actions
        for episode in dataset.iterate_episodes()
    ]
    # A uniform draw differs from the greedy one half the time: epsilon / 2; some 800 steps, 3 errors.
    assert abs(np.concatenate(different).mean() - 0.25) < 0.05


def test_distances_are_shortest_paths() -> None:
    maze: list[list[int | str]] = [
        [1, 1, 1, 1, 1],
        [1, "r", 0, 0, 1],
        [1, 1, 1, 0, 1],
        [1, "g", 0, 0, 1],
        [1, 1, 1, 1, 1],
    ]
    found = distances(maze, (3, 1))
    assert found == {(3, 1): 0, (3, 2): 1, (3, 3): 2, (2, 3): 3, (1, 3): 4, (1, 2): 5, (1, 1): 6}
    maze[2][1] = 0
    assert distances(maze, (3, 1))[(1, 1)] == 2


@pytest.mark.parametrize(
    "environment",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("PointMaze_UMaze-v3", "PointMaze_Medium-v3")),
        "PointMaze_Large-v3",
    ],
)
@pytest.mark.parametrize("deterministic", [True, False])
def test_the_waypoint_controller_reaches_every_goal(environment: str, deterministic: bool) -> None:
    pytest.importorskip("gymnasium_robotics")
    dataset = quietly(
        "waypoint",
        environment,
        8,
        deterministic=deterministic,
        environment_options={"continuing_task": False},
    )
    for episode in dataset.iterate_episodes():
        assert episode.terminations[-1]
        assert episode.rewards.sum() == 1.0


def test_the_waypoint_controller_follows_goals_that_move() -> None:
    pytest.importorskip("gymnasium_robotics")
    options = {"continuing_task": True, "reset_target": True}
    episode = quietly("waypoint", "PointMaze_UMaze-v3", 1, environment_options=options)[0]
    assert len(episode.rewards) == 300
    assert episode.truncations[-1]
    assert len(np.unique(episode.observations["desired_goal"], axis=0)) >= 3


@pytest.mark.parametrize(
    ("algorithm", "policy", "environment", "options"),
    [
        ("ARS", "LinearPolicy", "Pendulum-v1", {}),
        ("TRPO", "MlpPolicy", "Pendulum-v1", {}),
        ("TQC", "MlpPolicy", "Pendulum-v1", {"buffer_size": 10}),
        ("CrossQ", "MlpPolicy", "Pendulum-v1", {"buffer_size": 10}),
        ("QRDQN", "MlpPolicy", "CartPole-v1", {"buffer_size": 10}),
    ],
)
def test_sb3_contribs_policies_act_too(
    algorithm: str, policy: str, environment: str, options: dict[str, Any], tmp_path: Path
) -> None:
    kind = getattr(pytest.importorskip("sb3_contrib"), algorithm)
    file = tmp_path / "policy.zip"
    kind(policy, environment, seed=0, device="cpu", **options).save(file)
    episode = quietly(str(file), environment, 1, deterministic=True)[0]
    expected, _ = kind.load(file, device="cpu").predict(episode.observations[:-1], deterministic=True)
    np.testing.assert_allclose(expected, episode.actions, atol=1e-5)


class EveryOther(gym.Env[Any, Any]):
    """Environment in which only actions with the parity of t are valid at step t."""

    observation_space = gym.spaces.Box(0, 20, (1,), np.float32)
    action_space = gym.spaces.Discrete(10)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.full(1, self.time, np.float32), 0.0, self.time == 20, False, {}

    def action_masks(self) -> list[bool]:
        return [action % 2 == self.time % 2 for action in range(10)]


def test_maskable_ppo_asks_the_environment_for_its_masks(tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    if "EveryOther-v0" not in gym.registry:
        gym.register("EveryOther-v0", EveryOther, disable_env_checker=True)
    file = tmp_path / "masked.zip"
    contrib.MaskablePPO("MlpPolicy", EveryOther(), seed=0, device="cpu").save(file)
    for episode in quietly(str(file), "EveryOther-v0", 4).iterate_episodes():
        assert (episode.actions % 2).tolist() == [0, 1] * 10
