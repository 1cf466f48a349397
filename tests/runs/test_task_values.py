"""Fields of a task in a checkpoint that no data set has are refused in one line."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data.environment import EnvironmentInfo
from minrl.data.task import Task
from minrl.runs.log_files import is_log_of, rows_digest

TASK = Task.in_environment(
    EnvironmentInfo("CartPole-v1"), spaces.Box(-1, 1, (2,)), spaces.Box(-np.inf, np.inf, (1,), np.float32)
)
STRANGE: dict[str, list[Any]] = {
    "dataset": [3, None],
    "reference_scores": [[1, "x"], [1.0], [1.0, math.nan], "ab", 3],
    "return_scale": [0.0, -1.0, math.nan, "1"],
    "best_return": [math.inf, "9", True],
    "best_return_to_go": [math.nan, [1.0]],
    "longest_episode": [-1, 2.5, "7", None],
    "action_low": [["a"], [math.nan], [None], [torch.ones(2)]],
    "action_std": [[math.inf], "b", 3],
}


def test_strange_values_are_refused_by_the_name_of_their_field() -> None:
    values = TASK.to_dict()
    assert Task.from_dict(values) == TASK
    for name, strange in STRANGE.items():
        for value in strange:
            with pytest.raises(ValueError, match=name.replace("dataset", "data set")):
                Task.from_dict({**values, name: value})


def test_strange_environments_are_refused_by_the_name_of_their_field() -> None:
    """Put tensors and others in place of texts, as a mutant of a checkpoint does."""
    environment = TASK.to_dict()["environment"]
    for name, strange in {
        "id": [torch.zeros(2), 3, None],
        "kwargs": [None, [1], {1: 2}, {"a": torch.zeros(2)}],
        "max_episode_steps": ["9", 2.5, True, torch.ones(1)],
        "spec": [torch.zeros(2), {}],
    }.items():
        for value in strange:
            with pytest.raises(ValueError, match=f"the environment's {name} is of another type"):
                Task.from_dict({**TASK.to_dict(), "environment": {**environment, name: value}})


def test_an_unknown_best_return_asks_for_a_target() -> None:
    agent = DecisionAgent(DecisionConfig(width=8, depth=1), replace(TASK, best_return=None))
    with pytest.raises(ValueError, match="best return of the data is unknown: give a target return"):
        agent.initial_state(1)
    assert agent.initial_state(1, 2.0)[0, 0] == 2.0


def test_a_digest_of_another_type_fits_no_log() -> None:
    assert is_log_of([], rows_digest([]))
    assert not any(is_log_of([], strange) for strange in ([0, torch.zeros(2)], [torch.zeros(2), 0], [0, "0"], 3))
