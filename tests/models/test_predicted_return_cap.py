"""The cap of predicted returns-to-go: the largest that a step of the data had."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces

from minrl.agent import Batch, Moment
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data import build_episodes
from minrl.data.task import Task


@pytest.mark.parametrize("older", [False, True], ids=["", "an older checkpoint's task"])
def test_predictions_are_capped_at_the_largest_return_to_go(older: bool) -> None:
    """Use data in which every step costs 1 to 3: returns-to-go are about -30 at first, -3 or more at last.

    Predictions within the data's returns-to-go stay; those above are lowered to the largest, when acting and along
    recorded episodes.
    """
    random = np.random.default_rng(0)
    lengths = random.integers(20, 60, size=20)
    rewards = -random.uniform(1, 3, size=lengths.sum()).astype(np.float32)
    episodes = build_episodes(
        name="costs", observations=random.normal(size=(len(rewards), 3)), rewards=rewards, lengths=lengths,
        actions=random.uniform(-1, 1, (len(rewards), 2)), final_observations=np.zeros((20, 3)),
        terminated=[True] * 20, truncated=[False] * 20, observation_space=spaces.Box(-9, 9, (3,), np.float32),
        action_space=spaces.Box(-1, 1, (2,), np.float32),
    )  # fmt: skip
    ends = np.cumsum(lengths) - 1
    best = 0.0 if older else float(rewards[ends].max())  # the return-to-go after an episode
    task = Task.of(episodes)
    assert task.best_return < -20
    if older:
        values = task.to_dict()
        del values["best_return_to_go"]
        task = Task.from_dict(values)
    agent = DecisionAgent(DecisionConfig(width=8, depth=1, return_expectile=0.9), task).double().eval()
    free = DecisionAgent(dataclasses.replace(agent.config, cap_return=False), task).double().eval()
    free.load_state_dict(agent.state_dict())
    with torch.no_grad():
        for one in (agent, free):
            assert one.largest_return is not None
            one.head.linear.weight.mul_(20)
            one.largest_return.linear.weight.zero_()
    start, still = torch.tensor([True]), torch.zeros(1).double()
    for ahead in (best - 25.0, best - 0.01, best, best + 9.0):
        actions = []
        for one, value in ((agent, ahead), (free, min(ahead, best))):
            assert one.largest_return is not None
            with torch.no_grad():
                one.largest_return.linear.bias.fill_(value / one.return_scale)
                batch = Batch.from_numpy(next(one.sampler(episodes, batch_size=2, length=50, seed=0))).to(torch.float64)
                moment = Moment(batch.observations[:1, 0], still, start)
                actions.append((one.predict(batch), one.act(moment, one.initial_state(1))[0]))
        for found, wanted in zip(*actions, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
