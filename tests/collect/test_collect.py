"""Collected data sets: Minari reads them, their episodes replay, and they are whole or absent."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from minari import namespace
from stable_baselines3 import PPO

from minrl.collect.record import collect
from minrl.data import load


class Awkward(gym.Env[Any, Any]):
    """Environment of nested observations in reused buffers; ends at step 5 or by its options."""

    observation_space = gym.spaces.Dict(
        {
            "pair": gym.spaces.Tuple([gym.spaces.Discrete(9), gym.spaces.Box(-9, 9, (2,), np.float64)]),
            "bits": gym.spaces.MultiBinary(3),
        }
    )
    action_space = gym.spaces.Tuple([gym.spaces.MultiDiscrete([2, 3]), gym.spaces.Box(-1, 1, (1,), np.float32)])

    def __init__(self, fault: str = "") -> None:
        self.fault, self.episode = fault, 0
        self.box, self.bits = np.zeros(2), np.zeros(3, np.int8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.episode += 1
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        if self.episode == 2 and self.fault == "interrupt":
            raise KeyboardInterrupt
        if self.episode == 2 and self.fault == "nan" and self.time == 4:
            return self.observe(), float("nan"), False, False, {}
        return self.observe(), float(action[1][0]), self.time == 5, False, {}

    def observe(self) -> Any:
        self.box[:] = self.time, self.np_random.random()
        self.bits[:] = self.time % 2
        return {"pair": (self.time, self.box), "bits": self.bits}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "minari"
    folder.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    if "Awkward-v0" not in gym.registry:
        gym.register("Awkward-v0", Awkward, disable_env_checker=True)
    return folder


def quietly(policy: Any, environment: str, episodes: int, out: str = "minari:tests/set-v0", **options: Any) -> Any:
    collect(policy, environment, episodes, out, progress=False, trust=True, **options)
    return minari.load_dataset(out.removeprefix("minari:"))


def replay(dataset: Any) -> None:
    """Run each episode's seed and actions again in the recovered environment, and compare with the recording."""
    environment = dataset.recover_environment()
    seeds = [int(metadata["seed"]) for metadata in dataset.storage.get_episode_metadata(dataset.episode_indices)]
    assert len(set(seeds)) == len(seeds)
    for episode, seed in zip(dataset.iterate_episodes(), seeds, strict=True):
        observation, _ = environment.reset(seed=seed)
        observations, outcomes = [observation], []
        for action in episode.actions:
            observation, *outcome, _ = environment.step(action)
            observations.append(observation)
            outcomes.append(outcome)
        np.testing.assert_array_equal(np.array(observations), episode.observations)
        rewards, terminations, truncations = (np.array(column) for column in zip(*outcomes, strict=True))
        np.testing.assert_array_equal(rewards, episode.rewards)
        np.testing.assert_array_equal(terminations, episode.terminations)
        np.testing.assert_array_equal(truncations, episode.truncations)
        assert (terminations | truncations).tolist() == [False] * (len(rewards) - 1) + [True]


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1", "Hopper-v5"])
def test_a_random_policys_episodes_replay(environment: str) -> None:
    dataset = quietly("random", environment, 4)
    replay(dataset)
    assert dataset.total_episodes == 4
    assert dataset.total_steps == sum(len(episode.rewards) for episode in dataset.iterate_episodes())
    assert dataset.spec.env_spec.id == environment
    world = gym.make(environment)
    assert dataset.observation_space == world.observation_space
    assert dataset.action_space == world.action_space


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1"])
def test_a_saved_policys_episodes_replay(environment: str, tmp_path: Path) -> None:
    PPO("MlpPolicy", environment, n_steps=128, seed=0, device="cpu").learn(256).save(tmp_path / "ppo.zip")
    replay(quietly(str(tmp_path / "ppo.zip"), environment, 3))


def test_minari_lists_the_set_and_its_namespaces() -> None:
    quietly(
        "random",
        "CartPole-v1",
        2,
        "lab/cartpole/random-v3",
        metadata={"author": ["A"], "ref_max_score": 500.0},
    )
    metadata = minari.list_local_datasets()["lab/cartpole/random-v3"]
    assert metadata["total_episodes"] == 2
    assert metadata["algorithm_name"] == "uniform random"
    assert metadata["author"] == ["A"]
    assert metadata["ref_max_score"] == 500.0
    assert f"gymnasium=={gym.__version__}" in metadata["requirements"]
    assert namespace.list_local_namespaces() == ["lab", "lab/cartpole"]


def test_a_time_limit_is_a_truncation() -> None:
    dataset = quietly("random", "Pendulum-v1", 2, max_episode_steps=37)
    for episode in dataset.iterate_episodes():
        assert len(episode.rewards) == 37
        assert len(episode.observations) == 38
        assert episode.truncations.tolist() == [False] * 36 + [True]
        assert not episode.terminations.any()
    assert dataset.spec.env_spec.max_episode_steps == 37


def test_float32_stores_the_same_values_in_half_the_space() -> None:
    wide = quietly("random", "Hopper-v5", 3, "tests/wide-v0")
    narrow = quietly("random", "Hopper-v5", 3, "tests/narrow-v0", float32=True, compress=True)
    assert narrow.observation_space.dtype == np.float32
    for left, right in zip(wide.iterate_episodes(), narrow.iterate_episodes(), strict=True):
        assert left.observations.dtype == np.float64
        assert right.observations.dtype == right.rewards.dtype == np.float32
        np.testing.assert_array_equal(left.observations.astype(np.float32), right.observations)
        np.testing.assert_array_equal(left.actions, right.actions)


def test_nested_observations_and_reused_buffers(root: Path) -> None:
    dataset = quietly("random", "Awkward-v0", 3)
    for episode in dataset.iterate_episodes():
        steps, box = episode.observations["pair"]
        assert steps.tolist() == [0, 1, 2, 3, 4, 5]
        assert box[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert len(set(box[:, 1])) == 6
        assert episode.observations["bits"].tolist() == [[t % 2] * 3 for t in range(6)]
        np.testing.assert_array_equal(episode.actions[1][:, 0].astype(np.float64), episode.rewards)
        assert episode.actions[0].shape == (5, 2)


def test_minrl_loads_what_it_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINRL_CACHE", str(tmp_path / "cache"))
    dataset = quietly("random", "Hopper-v5", 3, metadata={"ref_min_score": -20.0, "ref_max_score": 3000.0})
    episodes = load("minari:tests/set-v0")
    recorded = list(dataset.iterate_episodes())
    np.testing.assert_allclose(
        episodes.observations, np.concatenate([e.observations[:-1] for e in recorded]), rtol=1e-6
    )
    np.testing.assert_allclose(episodes.final_observations, [e.observations[-1] for e in recorded], rtol=1e-6)
    np.testing.assert_array_equal(episodes.actions, np.concatenate([e.actions for e in recorded]))
    assert episodes.terminated.all()
    assert not episodes.truncated.any()
    assert episodes.reference_scores == (-20.0, 3000.0)


def fails(words: str, root: Path, *arguments: Any, **options: Any) -> None:
    """Check for one line that has `words`, and nothing new under Minari's root."""
    before = sorted(root.rglob("*"))
    with pytest.raises(ValueError, match=words) as caught:
        collect(*arguments, progress=False, trust=True, **options)
    assert "\n" not in str(caught.value)
    assert sorted(root.rglob("*")) == before


def test_bad_input_is_one_line_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    nonsense, foreign, cartpole = (
        tmp_path / "nonsense.zip",
        tmp_path / "foreign.zip",
        tmp_path / "cartpole.zip",
    )
    nonsense.write_bytes(b"no zip at all")
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("data", "{}")
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(cartpole)
    name = "tests/set-v0"
    fails("'absent.zip' is no file.*'random'.*'waypoint'", root, "absent.zip", "CartPole-v1", 1, name)
    fails("nonsense.zip: not a readable", root, str(nonsense), "CartPole-v1", 1, name)
    fails("foreign.zip: it holds no policy", root, str(foreign), "CartPole-v1", 1, name)
    fails("trained with observation_space", root, str(cartpole), "Pendulum-v1", 1, name)
    fails("not a readable VecNormalize", root, str(cartpole), "CartPole-v1", 1, name, vecnormalize=str(nonsense))
    fails("no point maze", root, "waypoint", "CartPole-v1", 1, name)
    fails("CartPool-v1 cannot be made.*CartPole", root, "random", "CartPool-v1", 1, name)
    fails("no_such_package:A-v0 cannot be made", root, "random", "no_such_package:A-v0", 1, name)
    fails("cannot be made.*wings", root, "random", "CartPole-v1", 1, name, environment_options={"wings": 2})
    fails("episodes must be 1 or more, not 0", root, "random", "CartPole-v1", 0, name)
    fails("'set' is not a Minari id, .*name-v0", root, "random", "CartPole-v1", 1, "minari:set")
    fails("metadata env_spec", root, "random", "CartPole-v1", 1, name, metadata={"env_spec": ""})
    fails(
        "episode 1, step 3: .* not finite",
        root,
        "random",
        "Awkward-v0",
        3,
        name,
        environment_options={"fault": "nan"},
    )


def test_ant_mazes_are_refused(root: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    fails("AntMaze_UMaze-v5 is no point maze", root, "waypoint", "AntMaze_UMaze-v5", 1, "tests/set-v0")


def test_an_existing_name_is_refused_unless_it_may_be_replaced(root: Path) -> None:
    quietly("random", "CartPole-v1", 2)
    fails("tests/set-v0 exists already", root, "random", "CartPole-v1", 3, "minari:tests/set-v0")
    assert quietly("random", "CartPole-v1", 3, overwrite=True).total_episodes == 3
    assert not list(root.glob(".*"))


def test_ctrl_c_leaves_no_file_and_keeps_the_set_to_be_replaced(root: Path) -> None:
    broken = {"environment_options": {"fault": "interrupt"}, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        collect("random", "Awkward-v0", 3, "tests/set-v0", **broken)
    assert not list(root.iterdir())
    quietly("random", "CartPole-v1", 2)
    with pytest.raises(KeyboardInterrupt):
        collect("random", "Awkward-v0", 3, "tests/set-v0", overwrite=True, **broken)
    assert minari.load_dataset("tests/set-v0").total_episodes == 2
    assert not list(root.glob(".*"))
