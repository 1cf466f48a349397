"""Dict spaces whose keys are not in alphabetical order: a saved agent is the one that was trained, to the bit.

Numbers to compare with come from `gymnasium.spaces.flatten` and from the agent that was never saved.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces
from worlds import own_folders  # noqa: F401

import minrl
from minrl import checkpoint
from minrl.agent import Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.ppo_agent import PPOAgent, PPOConfig, PPOOptions
from minrl.agents.ppo_settings import OnlineConfig
from minrl.agents.ppo_start import resume, train
from minrl.collect import collect
from minrl.data import EnvironmentInfo, load
from minrl.data.spaces import arranged, flatten, from_json, to_json
from minrl.evaluate import evaluate
from minrl.play import Player
from minrl.task import Task
from minrl.train import TrainConfig
from minrl.train import resume as resume_offline
from minrl.train import train as train_offline

SPEED, ANGLE = spaces.Box(-3, 3, (2,), np.float32), spaces.Discrete(3)
CAMERA = spaces.Box(0, 255, (6, 5, 3), np.uint8)
OBSERVED: dict[str, spaces.Dict] = {
    "keywords": spaces.Dict(speed=SPEED, angle=ANGLE),
    "pairs": spaces.Dict([("speed", SPEED), ("angle", ANGLE), ("limit", SPEED)]),
    "ordered": spaces.Dict(OrderedDict(speed=SPEED, angle=ANGLE)),
    "unsorted": spaces.Dict({"speed": SPEED, "angle": ANGLE}, sort_keys=False),
    "image": spaces.Dict(speed=SPEED, camera=CAMERA, angle=ANGLE, back=CAMERA),
    "nested": spaces.Dict(
        zone=spaces.Dict(y=SPEED, x=ANGLE), body=spaces.Tuple([ANGLE, spaces.Dict(b=SPEED, a=SPEED)])
    ),
}
ACTED: dict[str, gymnasium.Space[Any]] = {
    "plain": spaces.Discrete(3),
    "pedals": spaces.Dict(gas=spaces.Discrete(4), brake=spaces.Discrete(2), aim=spaces.MultiDiscrete([3, 2])),
}


class Road(gymnasium.Env[Any, Any]):
    """Random observations; the reward depends on every part of the action and of the observation by its name."""

    backwards = False  # whether all Dicts have their keys the other way round

    def __init__(self, observed: str = "keywords", acted: str = "plain") -> None:
        given = OBSERVED[observed], ACTED[acted]
        self.observation_space, self.action_space = map(reversed_keys, given) if self.backwards else given
        self._drawn = given[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._drawn.seed(seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.steps += 1
        parts = action if isinstance(action, dict) else {"": action}
        reward = sum(float(np.sum(parts[key])) * weight for weight, key in enumerate(sorted(parts), 1))
        return self._look(), reward, False, self.steps == 12, {}

    def _look(self) -> Any:
        return self._drawn.sample()


def reversed_keys(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, reversed_keys(part)) for key, part in reversed(space.spaces.items())])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([reversed_keys(part) for part in space.spaces])
    return space


@pytest.fixture(autouse=True)
def road(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`Road-v0` in Gymnasium's registry, with its own order of keys again after a test."""
    monkeypatch.setattr(Road, "backwards", False)
    gymnasium.register("Road-v0", entry_point=Road)
    yield
    del gymnasium.registry["Road-v0"]


def keys_of(space: gymnasium.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return [(key, keys_of(part)) for key, part in space.spaces.items()]
    return [keys_of(part) for part in space.spaces] if isinstance(space, spaces.Tuple) else None


def stacked(space: gymnasium.Space[Any], count: int) -> tuple[Any, list[Any]]:
    """A batch of samples, and the samples one by one."""
    space.seed(0)
    samples = [space.sample() for _ in range(count)]
    return _batch(samples), samples


def _batch(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        return {key: _batch([sample[key] for sample in samples]) for key in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(_batch(list(parts)) for parts in zip(*samples, strict=True))
    return np.stack(samples)


def config(out_steps: int = 64, **settings: Any) -> OnlineConfig:
    small: dict[str, Any] = {
        "env": "Road-v0",
        "n_envs": 2,
        "n_steps": 16,
        "batch_size": 16,
        "n_epochs": 2,
        "threads": 1,
    }
    schedule = {"steps": out_steps, "checkpoint_every": 32, "evaluate_every": 64, "evaluate_episodes": 2}
    return OnlineConfig(**{**small, **schedule, "learning_rate": 0.01, "device": "cpu", **settings})


POLICY = PPOOptions(width=8, depth=1)


def acts_alike(first: Any, second: Any, count: int = 5) -> bool:
    space = first.task.observation_space
    rows = torch.from_numpy(flatten(space, stacked(space, count)[0]))
    states = [agent.initial_state(count) for agent in (first, second)]
    for step in range(4):
        moment = Moment(rows.roll(step, 0), torch.zeros(count), torch.full((count,), step == 0))
        results = [agent.act(moment, state) for agent, state in zip((first, second), states, strict=True)]
        if not all(torch.equal(a, b) for a, b in zip(*results, strict=True)):
            return False
        states = [state for _, state in results]
    return True


@pytest.mark.parametrize("space", [*OBSERVED.values(), *ACTED.values()], ids=[*OBSERVED, *ACTED])
def test_json_keeps_the_order_and_so_the_columns(space: Any) -> None:
    read = from_json(to_json(space))
    assert keys_of(read) == keys_of(space)
    batch, samples = stacked(space, 4)
    expected = np.stack([spaces.flatten(space, sample) for sample in samples])
    np.testing.assert_array_equal(flatten(read, batch), expected)


@pytest.mark.parametrize("space", [*OBSERVED.values(), *ACTED.values()], ids=[*OBSERVED, *ACTED])
def test_arranged_undoes_another_order(space: Any) -> None:
    assert keys_of(arranged(reversed_keys(space), space)) == keys_of(space)
    assert arranged(space, space) is space


def test_the_characters_of_text_keep_their_columns() -> None:
    space = spaces.Text(3, charset="cab")
    expected = np.array([[2, 0, 1]], np.float32)  # "cab" in the alphabet "abc"
    np.testing.assert_array_equal(flatten(space, ["cab"]), expected)
    np.testing.assert_array_equal(flatten(from_json(to_json(space)), ["cab"]), expected)


@pytest.mark.parametrize("observed", OBSERVED)
def test_an_online_agent_is_loaded_as_it_was(observed: str, tmp_path: Path) -> None:
    acted = "pedals" if observed in ("keywords", "nested") else "plain"
    settings = config(env_kwargs={"observed": observed, "acted": acted})
    normalized = PPOOptions(width=8, depth=1, normalize_observations=observed in ("pairs", "image"))
    alive = train(normalized, settings, tmp_path / "run").agent
    loaded = minrl.load(tmp_path / "run")
    assert acts_alike(alive, loaded)
    results = [evaluate(agent, episodes=3, seed=5)[0].returns for agent in (alive, loaded)]
    assert results[0] == results[1]


@pytest.mark.parametrize(("observed", "acted"), [("image", "pedals"), ("nested", "pedals"), ("pairs", "plain")])
def test_keys_in_another_order_are_matched_by_name(
    observed: str, acted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(32, env_kwargs={"observed": observed, "acted": acted}, exact_resume=True, evaluate_every=0)
    train(POLICY, settings, tmp_path / "run")
    # Go on from the checkpoint for 32 steps more, in each of the two orders.
    saved = torch.load(tmp_path / "run" / checkpoint.LAST, weights_only=True)
    saved["training"]["config"]["steps"] = 64
    returns, weights = [], []
    for number, backwards in enumerate((False, True)):
        folder = tmp_path / f"resumed{number}"
        folder.mkdir()
        torch.save(saved, folder / checkpoint.LAST)
        monkeypatch.setattr(Road, "backwards", backwards)
        returns.append(evaluate(minrl.load(tmp_path / "run"), episodes=3, seed=1)[0].returns)
        assert resume(folder).step == 64
        weights.append(checkpoint.read(folder).weights)
    assert returns[0] == returns[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_set_of_keys_is_refused(tmp_path: Path) -> None:
    agent = train(POLICY, config(32, evaluate_every=0), tmp_path / "run").agent
    other = spaces.Dict(speed=SPEED, angel=ANGLE)
    with pytest.raises(ValueError, match=r"Road-v0: its observation space .* only the agent has a part angle"):
        agent.task.check_fits(other, ANGLE, "Road-v0")


@pytest.mark.parametrize("backwards", [False, True])
def test_offline_agents_know_their_columns(backwards: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = collect(
        "random", "Road-v0", 4, "road/any-v0", environment_options={"observed": "nested", "acted": "pedals"},
        progress=False,
    )  # fmt: skip
    episodes = load(f"minari:{written.name}")
    assert keys_of(episodes.observation_space) == keys_of(OBSERVED["nested"])
    # What the environment draws after the same seeds, flattened by Gymnasium.
    world = gymnasium.make("Road-v0", observed="nested", acted="pedals")
    with h5py.File(written.path / "data" / "main_data.hdf5") as file:
        seed = int(file["episode_0"].attrs["seed"])
    first = spaces.flatten(OBSERVED["nested"], world.reset(seed=seed)[0])
    np.testing.assert_array_equal(episodes.observations[0], first)
    agent = _clone(episodes)
    checkpoint.save(tmp_path / "agent.pt", agent, step=0)
    loaded = minrl.load(tmp_path / "agent.pt")
    assert acts_alike(agent, loaded)
    info = EnvironmentInfo("Road-v0", {"observed": "nested", "acted": "pedals"})
    expected = evaluate(agent, info, episodes=3)[0].returns
    monkeypatch.setattr(Road, "backwards", backwards)
    assert evaluate(loaded, info, episodes=3)[0].returns == expected


def _clone(episodes: Any) -> CloneAgent:
    torch.manual_seed(0)
    agent = CloneAgent(CloneAgent.config_class(width=8, depth=1), Task.of(episodes))
    agent.fit_normalization(episodes)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that actions depend on observations
    return agent.eval()


def turn_around(file: Path, field: str) -> None:
    """Write the keys of a space in a set's metadata the other way round; the file looks unchanged."""
    status, text = file.stat(), file.read_text()
    values = json.loads(text)
    values[field] = to_json(reversed_keys(from_json(values[field])))
    file.write_text(json.dumps(values))
    assert file.stat().st_size == status.st_size
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_cache_does_not_mix_two_orders() -> None:
    written = collect("random", "Road-v0", 2, "road/any-v0", progress=False)
    before = load(f"minari:{written.name}")
    turn_around(written.path / "data" / "metadata.json", "observation_space")
    after = load(f"minari:{written.name}")
    assert list(after.observation_space) == ["angle", "speed"]
    np.testing.assert_array_equal(np.roll(after.observations, -3, axis=1), before.observations)


def test_an_offline_run_goes_on_with_its_own_columns(tmp_path: Path) -> None:
    options = {"observed": "nested", "acted": "pedals"}
    written = collect("random", "Road-v0", 4, "road/any-v0", environment_options=options, progress=False)
    settings = TrainConfig(
        data=f"minari:{written.name}", steps=4, batch_size=2, length=8, evaluate_every=0, validation=0.25, threads=1
    )
    train_offline(CloneAgent, CloneConfig(width=8, depth=1), settings, tmp_path / "run")
    saved = torch.load(tmp_path / "run" / checkpoint.LAST, weights_only=True)
    saved["training"]["config"]["steps"] = 8
    weights = []
    for number in range(2):
        folder = tmp_path / f"resumed{number}"
        folder.mkdir()
        torch.save(saved, folder / checkpoint.LAST)
        resume_offline(folder)
        weights.append(checkpoint.read(folder).weights)
        for field in ("observation_space", "action_space"):
            turn_around(written.path / "data" / "metadata.json", field)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], saved["weights"][name]) for name in weights[0])


def test_a_player_reads_observations_by_name() -> None:
    space = OBSERVED["nested"]
    episodes_agent = _agent_without_data(space)
    batch, _ = stacked(space, 3)
    other = _reordered(batch)
    first, second = (
        Player(episodes_agent, 3).act(observations, np.zeros(3), np.ones(3, bool)) for observations in (batch, other)
    )
    np.testing.assert_array_equal(first, second)


def _reordered(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _reordered(batch[key]) for key in reversed(batch)}
    return tuple(map(_reordered, batch)) if isinstance(batch, tuple) else batch


def _agent_without_data(space: gymnasium.Space[Any]) -> Any:
    torch.manual_seed(0)
    task = Task.in_environment(EnvironmentInfo("Road-v0"), space, spaces.Discrete(3))
    return PPOAgent(PPOConfig(width=8, depth=1), task)
