"""The player's fast paths for plain Box spaces, against the general one."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from worlds import drift_episodes

from minrl.agent import Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.data.spaces import flatten, unflatten
from minrl.data.task import Task
from minrl.play import Player

OBSERVATIONS: dict[str, gymnasium.Space[Any]] = {
    "float32": spaces.Box(-np.inf, np.inf, (5,), np.float32),
    "float64": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "bytes": spaces.Box(0, 255, (2, 2), np.uint8),
    "number": spaces.Box(-1.0, 1.0, (), np.float32),
    "dict": spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1.0, 1.0, (2,), np.float32)}),
}
ACTIONS: dict[str, gymnasium.Space[Any]] = {
    "float32": spaces.Box(-0.3, 0.2, (3,), np.float32),
    "float64": spaces.Box(np.array([[-1.0, -0.1]]), np.array([[0.1, np.inf]]), dtype=np.float64),
    "whole": spaces.Box(-2, 2, (2,), np.int64),
    "discrete": spaces.Discrete(4, start=2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_player_is_flatten_act_unflatten(observations: str, actions: str, dtype: torch.dtype) -> None:
    observed, taken = OBSERVATIONS[observations], ACTIONS[actions]
    width = spaces.flatdim(taken)
    task = Task(
        dataset="none",
        observation_space=observed,
        action_space=taken,
        action_low=(-1.0,) * width,
        action_high=(1.0,) * width,
        best_return=1.0,
        return_scale=1.0,
        longest_episode=10,
        environment=None,
        reference_scores=None,
    )
    torch.manual_seed(0)
    agent = CloneAgent(CloneConfig(width=16, depth=1), task).to(dtype).eval()
    with torch.no_grad():
        agent.head.linear.weight.mul_(30)
    player, state = Player(agent, 3), agent.initial_state(3)
    batched = gymnasium.vector.utils.batch_space(observed, 3)
    batched.seed(1)
    for step in range(5):
        seen, rewards, starts = batched.sample(), np.arange(3) * 0.1, np.array([step == 0, step == 2, False])
        action = player.act(seen, rewards, starts)
        with torch.inference_mode():
            columns = torch.as_tensor(flatten(observed, seen)).to(dtype)
            moment = Moment(columns, torch.as_tensor(rewards).to(dtype), torch.as_tensor(starts))
            raw, state = agent.act(moment, state)
        wanted = unflatten(taken, raw.numpy())
        assert action.dtype == wanted.dtype
        assert np.array_equal(action, wanted)
        assert torch.equal(player.state, state)
        assert all(taken.contains(one) for one in action)


def test_player_leaves_arrays_alone_and_takes_read_only_ones() -> None:
    episodes = drift_episodes()
    player = Player(CloneAgent(CloneConfig(width=8, depth=1), Task.of(episodes)), 2)
    seen, rewards, starts = np.ones((2, 3), np.float32), np.zeros(2), np.array([True, True])
    for array in (seen, rewards, starts):
        array.flags.writeable = False
    first = player.act(seen, rewards, starts)
    assert np.array_equal(first, player.act(seen.tolist(), rewards.tolist(), starts.tolist()))
