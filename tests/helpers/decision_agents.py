"""Small decision agents for the tests of several rooms."""

from typing import Any

import torch
from worlds import drift_episodes

from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data.task import Task

SMALL = {"transformer": {"context": 7, "heads": 2}}


def agent_of(actions: str = "box", cell: str = "mingru", **options: Any) -> DecisionAgent:
    """Build a small agent in float64 whose outputs differ much from step to step."""
    episodes = drift_episodes(actions)
    config = DecisionConfig(cell=cell, **{"width": 8, "depth": 2, "cell_options": SMALL.get(cell, {})} | options)
    agent = DecisionAgent(config, Task.of(episodes))
    agent.fit_normalization(episodes)
    with torch.no_grad():
        agent.head.linear.weight.mul_(20)
    return agent.double().eval()
