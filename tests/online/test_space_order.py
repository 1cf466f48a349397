"""Dict spaces whose keys are not in alphabetical order: a saved agent is the one that was trained, to the bit.

The references are `gymnasium.spaces.flatten` and the agent before saving.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from roads import ACTED, ANGLE, OBSERVED, SPEED, Road, acts_alike, keys_of, reversed_keys, road, stacked  # noqa: F401
from worlds import own_folders  # noqa: F401

import minrl
from minrl.agents.ppo_agent import PPOAgent, PPOConfig, PPOOptions
from minrl.data import EnvironmentInfo
from minrl.data.space_match import arranged
from minrl.data.space_text import from_json, to_json
from minrl.data.spaces import flatten
from minrl.data.task import Task
from minrl.evaluate import evaluate
from minrl.online.settings import OnlineConfig
from minrl.online.train import resume, train
from minrl.play import Player
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT


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


@pytest.mark.parametrize("space", [*OBSERVED.values(), *ACTED.values()], ids=[*OBSERVED, *ACTED])
def test_json_keeps_the_order_and_so_the_columns(space: Any) -> None:
    read = from_json(to_json(space))
    assert keys_of(read) == keys_of(space)
    batch, samples = stacked(space, 4)
    expected = np.stack([spaces.flatten(space, sample) for sample in samples])
    np.testing.assert_array_equal(flatten(read, batch), expected)


@pytest.mark.parametrize("space", [*OBSERVED.values(), *ACTED.values()], ids=[*OBSERVED, *ACTED])
def test_arranged_restores_the_order(space: Any) -> None:
    assert keys_of(arranged(reversed_keys(space), space)) == keys_of(space)
    assert arranged(space, space) is space


def test_the_characters_of_text_keep_their_columns() -> None:
    space = spaces.Text(3, charset="cab")
    expected = np.array([[2, 0, 1]], np.float32)  # "cab" in the alphabet "abc"
    np.testing.assert_array_equal(flatten(space, ["cab"]), expected)
    np.testing.assert_array_equal(flatten(from_json(to_json(space)), ["cab"]), expected)


@pytest.mark.parametrize("observed", OBSERVED)
def test_a_loaded_online_agent_acts_the_same(observed: str, tmp_path: Path) -> None:
    acted = "pedals" if observed in ("keywords", "nested") else "plain"
    settings = config(env_kwargs={"observed": observed, "acted": acted})
    normalized = PPOOptions(width=8, depth=1, normalize_observations=observed in ("pairs", "image"))
    alive = train(PPOAgent, normalized, settings, tmp_path / "run").agent
    loaded = minrl.load(tmp_path / "run")
    assert acts_alike(alive, loaded)
    results = [evaluate(agent, episodes=3, seed=5)[0].returns for agent in (alive, loaded)]
    assert results[0] == results[1]


@pytest.mark.parametrize(("observed", "acted"), [("image", "pedals"), ("nested", "pedals"), ("pairs", "plain")])
def test_keys_in_another_order_are_matched_by_name(
    observed: str, acted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(32, env_kwargs={"observed": observed, "acted": acted}, exact_resume=True, evaluate_every=0)
    train(PPOAgent, POLICY, settings, tmp_path / "run")
    # Go on from the checkpoint for 32 steps more, in each of the two orders.
    saved = torch.load(tmp_path / "run" / LAST_CHECKPOINT, weights_only=True)
    saved["training"]["config"]["steps"] = 64
    returns, weights = [], []
    for number, backwards in enumerate((False, True)):
        folder = tmp_path / f"resumed{number}"
        folder.mkdir()
        torch.save(saved, folder / LAST_CHECKPOINT)
        monkeypatch.setattr(Road, "backwards", backwards)
        returns.append(evaluate(minrl.load(tmp_path / "run"), episodes=3, seed=1)[0].returns)
        assert resume(folder).step == 64
        weights.append(checkpoint.read(folder).weights)
    assert returns[0] == returns[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_set_of_keys_is_refused(tmp_path: Path) -> None:
    agent = train(PPOAgent, POLICY, config(32, evaluate_every=0), tmp_path / "run").agent
    other = spaces.Dict(speed=SPEED, angel=ANGLE)
    with pytest.raises(ValueError, match=r"Road-v0: its observation space .* only the agent has a part angle"):
        agent.task.check_fits(other, ANGLE, "Road-v0")


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
