"""The search for a target return, on other episodes than those of the evaluation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from worlds import drift_episodes

from minrl.agent import Actor, Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data import EnvironmentInfo, build_episodes
from minrl.data.task import Task
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT, TARGET_CHOICE
from minrl.system.signals import StopRequest
from minrl.training.config import TrainConfig
from minrl.training.evaluator import Evaluator
from minrl.training.target_search import TargetSearch, candidate_targets, report_rows

seeds_played: list[int] = []


class Bell(gymnasium.Env[Any, Any]):
    """Environment of one step whose reward is best for an action of 0.6."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-9, 9, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            seeds_played.append(seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), -((float(action[0]) - 0.6) ** 2), True, False, {}


class Literal(Actor):
    """Agent whose action is its target."""

    name = "literal"
    state_size = 1

    def __init__(self, task: Task, max_target_return: float) -> None:
        super().__init__(None, task)
        self.target_return, self.max_target_return = 1.0, max_target_return
        self.weight = nn.Parameter(torch.zeros(1))

    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        asked = self.target_return if target_return is None else target_return
        return torch.as_tensor(asked).float().expand(batch_size).unsqueeze(1)

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        return state.clone(), state

    def set_target_return(self, target_return: float) -> None:
        self.target_return = target_return


class ReadyLiteral(Literal):
    """`Literal` with the methods that an evaluator needs."""

    def __init__(self, task: Task, max_target_return: float) -> None:
        super().__init__(task, max_target_return)
        self.config = LiteralConfig()


@dataclass(frozen=True)
class LiteralConfig:
    """No settings."""


@pytest.fixture
def bell() -> Any:
    gymnasium.register("Bell-v0", entry_point=Bell)
    seeds_played.clear()
    yield build_episodes(
        name="bell", observations=np.zeros((2, 1)), actions=np.zeros((2, 1)), rewards=[0.0, 1.0],
        final_observations=np.zeros((2, 1)), lengths=[1, 1], terminated=[True, True], truncated=[False, False],
        observation_space=Bell.observation_space, action_space=Bell.action_space,
        environment=EnvironmentInfo("Bell-v0"),
    )  # fmt: skip
    del gymnasium.registry["Bell-v0"]


def test_the_best_candidate_becomes_the_target(bell: Any, tmp_path: Path) -> None:
    """Search from the data's mean, 0.5, to its best, 1: 0.625 is the nearest to 0.6."""
    agent = Literal(Task.of(bell), max_target_return=1.0)
    search = TargetSearch(agent, bell, TrainConfig(seed=3, evaluate_episodes=4), tmp_path)
    assert search.candidates == [0.5, 0.625, 0.75, 0.875, 1.0]
    search.run()
    assert agent.target_return == 0.625
    found = json.loads((tmp_path / TARGET_CHOICE).read_text())
    assert found["chosen"] == 0.625
    means = [row["mean_return"] for row in found["candidates"]]
    assert means == pytest.approx([-((c - 0.6) ** 2) for c in search.candidates], abs=1e-6)
    # Run seed 3 with 4 episodes has the fourth block of 4 seeds, in a range of its own.
    assert set(seeds_played) == {2**30 + seed for seed in (12, 13, 14, 15)}
    text = dict(report_rows(tmp_path))["target chosen"]
    assert text.startswith(f"0.6: best mean of 4 episodes each, seeds {2**30 + 12} to {2**30 + 15}")


@pytest.mark.parametrize("count", [1, 7])
def test_no_two_runs_play_an_episode_twice(bell: Any, tmp_path: Path, count: int) -> None:
    """Compare the seeds of evaluations, sweeps and searches of runs 0 to 5 and around the old offset of a million."""
    bell_task = Task.of(bell)
    played: list[int] = []
    for seed in (*range(6), 1_000_000 - 1, 1_000_000, 1_000_001):
        config = TrainConfig(seed=seed, evaluate_episodes=count, choose_target=True, steps=1)
        seeds_played.clear()
        agent: Any = ReadyLiteral(bell_task, 1.0)
        evaluator = Evaluator(agent, config, tmp_path / str(seed), bell, None)
        (tmp_path / str(seed)).mkdir()
        with StopRequest() as request:
            assert evaluator.evaluate_step(1, request) is not None
        own = set(seeds_played)
        assert len(own) == 2 * count  # of the search, and of the evaluation with its sweep
        played += own
    assert len(set(played)) == len(played)


def test_a_seed_whose_episodes_would_be_those_of_a_choice_is_refused(bell: Any, tmp_path: Path) -> None:
    largest = 2**30 // 4 - 1
    TargetSearch(Literal(Task.of(bell), 1.0), bell, TrainConfig(seed=largest, evaluate_episodes=4), tmp_path)
    with pytest.raises(ValueError, match=f"with 4 episodes seed must be at most {largest}"):
        TargetSearch(Literal(Task.of(bell), 1.0), bell, TrainConfig(seed=largest + 1, evaluate_episodes=4), tmp_path)


def test_candidates_lie_in_the_data_unless_the_agent_allows_more(bell: Any) -> None:
    assert candidate_targets(bell, np.inf) == [0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25]
    assert candidate_targets(bell, 0.9) == [0.5, 0.625, 0.75, 0.875, 0.9]
    assert candidate_targets(bell.select([1, 1]), np.inf) == [1.0]


def test_agents_without_a_target_are_refused(tmp_path: Path) -> None:
    episodes = drift_episodes()
    task = Task.of(episodes)
    clone = CloneAgent(CloneConfig(width=8, depth=1), task)
    predicts = DecisionAgent(DecisionConfig(width=8, depth=1, return_expectile=0.9), task)
    for agent in (clone, predicts):
        with pytest.raises(ValueError, match=f"the {agent.name} agent with these settings takes no target return"):
            TargetSearch(agent, episodes, TrainConfig(), tmp_path)


def test_a_set_target_return_is_saved(tmp_path: Path) -> None:
    agent = DecisionAgent(DecisionConfig(width=8, depth=1), Task.of(drift_episodes()))
    assert agent.max_target_return == agent.task.best_return
    agent.set_target_return(4.5)
    checkpoint.save(tmp_path / LAST_CHECKPOINT, agent, step=1)
    assert checkpoint.load(tmp_path).target_return == 4.5
    assert agent.initial_state(1)[0, 0] == 4.5
