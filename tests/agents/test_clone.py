"""Behaviour cloning: acting equals predicting, the best episodes are chosen, and resets clear the state.

Shapes: B batch, T time.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from acting import in_torch, largest_gap, play, variants_and_ways
from gymnasium.vector import AutoresetMode
from worlds import ACTIONS, drift_episodes

from minrl.agent import Batch
from minrl.agents.clone import CloneAgent, CloneConfig, best_episodes
from minrl.cells import CELLS
from minrl.data.task import Task
from minrl.models.encoders import Memoryless

__all__ = ["in_torch"]
pytestmark = pytest.mark.usefixtures("in_torch")

VARIANTS: dict[str, dict[str, Any]] = {
    "recurrent": {},
    "previous action": {"previous_action": True},
    "memoryless": {"recurrent": False},
    "windows": {"context": 6},
}


def agent_of(actions: str = "box", cell: str = "mingru", **options: Any) -> CloneAgent:
    """Build a small agent in float64 whose outputs differ much from step to step."""
    episodes = drift_episodes(actions)
    cell_options = {"context": 7, "heads": 2} if cell == "transformer" else {}
    config = CloneConfig(cell=cell, cell_options=cell_options, width=8, depth=2, **options)
    agent = CloneAgent(config, Task.of(episodes))
    agent.fit_normalization(episodes)
    with torch.no_grad():
        agent.head.linear.weight.mul_(20)
    return agent.double().eval()


@pytest.mark.parametrize(
    ("variant", "way"), variants_and_ways(VARIANTS, "previous action"), ids=lambda word: getattr(word, "value", word)
)
def test_acting_equals_predicting(variant: str, way: AutoresetMode) -> None:
    agent = agent_of(**VARIANTS[variant])
    for batch in play(agent, "box", [0.0, 0.0, 0.0], 150, way):
        assert batch.reset.sum() > 2
        assert largest_gap(agent, batch) <= 1e-9


# Every cell's steps and scan are compared for the decision agent, which shares the backbone.
@pytest.mark.parametrize(
    ("cell", "steps"),
    [
        *((cell, 120) for cell in ("gru", "transformer")),
        *(pytest.param(c, 1000, marks=pytest.mark.slow) for c in CELLS),
    ],
)
def test_acting_is_predicting_with_every_cell(cell: str, steps: int) -> None:
    agent = agent_of(cell=cell, previous_action=True)
    (batch,) = play(agent, "box", [0.0], steps)
    assert batch.reset.sum() > steps / 50
    assert largest_gap(agent, batch) <= 1e-9


@pytest.mark.parametrize("actions", ACTIONS)
def test_acting_is_predicting_with_every_kind_of_action(actions: str) -> None:
    agent = agent_of(actions, previous_action=True)
    (batch,) = play(agent, actions, [0.0], 100)
    assert largest_gap(agent, batch) <= 1e-9


def test_without_recurrence_only_the_present_counts() -> None:
    sampler = agent_of().sampler(drift_episodes(), batch_size=2, length=30, seed=0)
    batch = Batch.from_numpy(next(sampler)).to(torch.float64)
    observations = batch.observations.clone()
    observations[:, :-1] += torch.randn_like(observations[:, :-1])
    other = dataclasses.replace(batch, observations=observations)
    without, recurrent = agent_of(recurrent=False), agent_of()
    assert torch.equal(without.predict(batch)[:, -1], without.predict(other)[:, -1])
    assert not torch.allclose(recurrent.predict(batch)[:, -1], recurrent.predict(other)[:, -1])
    assert without.memory_size == 0


def test_a_target_return_has_no_effect() -> None:
    agent = agent_of()
    assert torch.equal(agent.initial_state(2, 5.0), agent.initial_state(2, torch.tensor([1.0, 9.0])))
    assert agent.target_return is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant: str) -> None:
    agent = agent_of(**VARIANTS[variant]).train()
    sampler = agent.sampler(drift_episodes(), batch_size=3, length=20, seed=1)
    agent.loss(Batch.from_numpy(next(sampler)).to(torch.float64)).total.backward()
    assert [n for n, p in agent.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_best_episodes_fill_the_share_of_steps(share: float) -> None:
    """Take them by return until the next would exceed the share of the steps."""
    episodes = drift_episodes(count=60)
    chosen = best_episodes(episodes, share)
    order = np.argsort(-episodes.returns, kind="stable")
    count = chosen.num_episodes
    assert sorted(chosen.returns) == pytest.approx(sorted(episodes.returns[order[:count]]))
    assert chosen.num_steps <= share * episodes.num_steps < chosen.num_steps + episodes.lengths[order[count]]


def test_the_best_episode_is_kept_however_long() -> None:
    episodes = drift_episodes()
    chosen = best_episodes(episodes, 1e-9)
    assert chosen.num_episodes == 1
    assert chosen.returns[0] == episodes.returns.max()
    assert best_episodes(episodes, 1.0) is episodes


def test_batches_come_from_the_best_episodes() -> None:
    episodes = drift_episodes(count=60)
    agent = agent_of(top=0.1)
    sampler = agent.sampler(episodes, batch_size=4, length=50, seed=0)
    seen = {tuple(row) for _ in range(20) for row in next(sampler)["observations"].reshape(-1, 3)}
    assert seen == {tuple(row) for row in best_episodes(episodes, 0.1).observations}


@pytest.mark.parametrize("top", [0.0, 1.1, float("nan")])
def test_shares_outside_0_to_1_are_refused(top: float) -> None:
    with pytest.raises(ValueError, match=r"top must (lie in \(0, 1\]|be finite)"):
        CloneConfig(top=top)


@torch.no_grad()
def test_frames_are_the_last_observations_of_the_episode() -> None:
    """Compare a stack of three frames with the same weights on frames that are gathered by hand, whole and in cuts."""
    torch.manual_seed(0)
    model = Memoryless(5, 2, frames=3).double().eval()
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 0] = reset[0, 4] = reset[1, 1] = reset[1, 2] = True
    assert model.stack is not None
    expected = torch.zeros_like(x)
    for row in range(2):
        begin = 0
        for step in range(9):
            begin = step if reset[row, step] else begin
            frames = [x[row, i] if i >= begin else torch.zeros(5).double() for i in range(step - 2, step + 1)]
            expected[row, step] = model._run(model.stack(torch.cat(frames)))
    torch.testing.assert_close(model.scan(x, None, reset)[0], expected)
    for cut in range(1, 9):
        early, state = model.scan(x[:, :cut], None, reset[:, :cut])
        late, last = model.scan(x[:, cut:], state, reset[:, cut:])
        torch.testing.assert_close(torch.cat([early, late], 1), expected)
        torch.testing.assert_close(last, model.scan(x, None, reset)[1])
    state = torch.zeros(2, model.state_size).double()
    for step in range(9):
        out, state = model.step(x[:, step], torch.where(reset[:, step, None], 0.0, state))
        torch.testing.assert_close(out, expected[:, step])
    with pytest.raises(ValueError, match="without a recurrent backbone"):
        CloneConfig(frames=4)
