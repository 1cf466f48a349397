"""Patterns of two cells: every ordered pair runs, scans as it steps, and acts in agents and policies.

Shapes: B batch, T time, D width, S state size.
"""

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from worlds import drift_episodes

from minrl.agent import Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.backbone import Backbone
from minrl.cells import CELLS
from minrl.data.task import Task
from minrl.online.backbone_policy import BackbonePolicy
from minrl.scan import without_fused_kernels

WIDTH = 8
PAIRS = list(product(CELLS, CELLS))
# Cells with compiled calls; patterns that contain others too must not be compiled.
COMPILED = ("mingru", "minlstm")
WITH_COMPILED = [*product(COMPILED, CELLS), *product(("gru", "transformer"), COMPILED)]


@cache
def task() -> Task:
    return Task.of(drift_episodes("box"))


@pytest.mark.parametrize("pair", PAIRS, ids=",".join)
def test_scans_as_it_steps(pair: tuple[str, str]) -> None:
    model = Backbone(WIDTH, 2, ",".join(pair)).eval()
    assert [type(block.cell) for block in model.blocks] == [CELLS[name] for name in pair]
    x, state = torch.randn(2, 4, WIDTH), model.initial_state(2)
    with torch.inference_mode():
        wanted, last = model.scan(x)
        for t in range(4):
            y, state = model.step(x[:, t], state)
            assert torch.allclose(y, wanted[:, t], rtol=1e-4, atol=1e-4)
    assert torch.allclose(state, last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["decision", "clone"])
@pytest.mark.parametrize("pair", WITH_COMPILED, ids=",".join)
def test_agents_act(pair: tuple[str, str], family: str) -> None:
    """Compare three steps without a gradient, as in an environment, with torch's operations."""
    options: dict[str, Any] = {"width": WIDTH, "depth": 2, "cell": ",".join(pair)}
    agent: Any = (
        DecisionAgent(DecisionConfig(**options), task())
        if family == "decision"
        else CloneAgent(CloneConfig(**options), task())
    ).eval()
    moments = [Moment(torch.randn(2, 3), torch.randn(2), torch.tensor([t == 0, t == 2])) for t in range(3)]

    def play() -> list[torch.Tensor]:
        state, actions = agent.initial_state(2), []
        with torch.inference_mode():
            for moment in moments:
                action, state = agent.act(moment, state)
                actions.append(action)
        return [*actions, state]

    actual = play()
    with without_fused_kernels():
        wanted = play()
    for a, b in zip(actual, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pair", WITH_COMPILED, ids=",".join)
def test_policies_act(pair: tuple[str, str]) -> None:
    policy = BackbonePolicy(
        spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,)), lambda _: 1e-3,
        width=WIDTH, depth=2, cell=",".join(pair),
    )  # fmt: skip
    observations = np.random.default_rng(0).uniform(-1, 1, (3, 2, 3)).astype(np.float32)

    def play() -> list[Any]:
        state: Any = None
        actions = []
        for t, observation in enumerate(observations):
            action, state = policy.predict(observation, state, np.array([t == 0, t == 2]), deterministic=True)
            actions.append(action)
        return actions

    actual = play()
    with without_fused_kernels():
        assert np.allclose(actual, play(), rtol=1e-4, atol=1e-4)
