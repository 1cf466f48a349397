"""Clones and decision agents learn equally, whatever unit, offset and bounds the actions have.

Shapes: N steps, A flat action width.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium import spaces

from minrl.agent import Agent, Batch, Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data import Episodes, build_episodes
from minrl.data.task import Task
from minrl.play import Player

AGENTS: dict[str, Any] = {
    "clone": lambda task: CloneAgent(CloneConfig(width=16, depth=1, dropout=0.0, previous_action=True), task),
    "gaussian": lambda task: CloneAgent(CloneConfig(width=16, depth=1, dropout=0.0, action_loss="gaussian"), task),
    "categorical": lambda task: CloneAgent(
        CloneConfig(width=16, depth=1, dropout=0.0, action_loss="categorical"), task
    ),
    "decision": lambda task: DecisionAgent(DecisionConfig(width=16, depth=1, dropout=0.0), task),
    "triple": lambda task: DecisionAgent(DecisionConfig(width=16, depth=1, dropout=0.0, tokens="triple"), task),
}
# Scale and offset of the action; the others are compared with the first.
UNITS = [(1e-3, 0.0), (1e-2, 20.0), (1e4, 0.0), (3.0, -500.0)]
EPISODES, STEPS = 6, 40


def wave(scale: float = 1.0, offset: float = 0.0, *, bound: float = np.inf, constant: float | None = None) -> Episodes:
    """Build two action columns that follow from the observations, in a given unit; `constant` adds a third."""
    random = np.random.default_rng(0)
    seen = random.normal(size=(EPISODES * STEPS, 3))
    acted = np.stack([np.tanh(seen[:, 0] - seen[:, 1]), 0.5 * np.sin(2 * seen[:, 2])], axis=1) * scale + offset
    if constant is not None:
        acted = np.concatenate([acted, np.full((len(acted), 1), constant)], axis=1)
    return build_episodes(
        name="wave",
        observations=seen,
        actions=acted,
        rewards=seen[:, 0],
        final_observations=seen[:EPISODES],
        lengths=[STEPS] * EPISODES,
        terminated=[False] * EPISODES,
        truncated=[True] * EPISODES,
        observation_space=spaces.Box(-np.inf, np.inf, (3,), np.float32),
        action_space=spaces.Box(-bound, bound, (acted.shape[1],), np.float32),
    )


def trained(kind: str, episodes: Episodes, steps: int = 30) -> Agent:
    torch.manual_seed(0)
    agent: Agent = AGENTS[kind](Task.of(episodes))
    agent.fit_normalization(episodes)
    adam = torch.optim.Adam(agent.parameters(), lr=1e-2)
    sampler = agent.sampler(episodes, batch_size=4, length=STEPS, seed=0)
    for _ in range(steps):
        loss = agent.loss(Batch.from_numpy(next(sampler)))
        adam.zero_grad()
        (loss.total / loss.count).backward()
        adam.step()
    return agent.eval()


def error_in_spreads(agent: Agent, episodes: Episodes) -> npt.NDArray[Any]:
    batch = Batch.from_numpy(next(agent.sampler(episodes, batch_size=8, length=STEPS, seed=1)))
    with torch.no_grad():
        errors = (agent.predict(batch).double() - batch.actions.double()).numpy()
    spread: npt.NDArray[Any] = np.std(episodes.actions.astype(np.float64), axis=0)
    return np.asarray(np.abs(errors).mean((0, 1)) / spread)


@pytest.mark.parametrize("kind", AGENTS)
def test_training_does_not_depend_on_the_unit(kind: str) -> None:
    """Train in other units: at 20, float32 holds actions of spread .006 only to 3e-4 of it."""
    wanted = error_in_spreads(trained(kind, wave()), wave())
    assert (wanted < 0.9).all()  # a constant action scores 0.8, the mean of a normal one 1
    for scale, offset in UNITS:
        episodes = wave(scale, offset)
        found = error_in_spreads(trained(kind, episodes), episodes)
        assert found == pytest.approx(wanted, rel=2e-2 if offset else 1e-3), (scale, offset)


def test_a_unit_that_is_a_power_of_two_changes_no_bit() -> None:
    one, other = trained("clone", wave(), steps=5), trained("clone", wave(2.0**-12), steps=5)
    parameters = dict(other.named_parameters())
    assert all(torch.equal(value, parameters[name]) for name, value in one.named_parameters())


@pytest.mark.parametrize("kind", ["clone", "gaussian", "categorical"])
def test_declared_bounds_do_not_matter(kind: str) -> None:
    one, other = trained(kind, wave(), steps=5), trained(kind, wave(bound=1e5), steps=5)
    parameters = dict(other.named_parameters())
    assert all(torch.equal(value, parameters[name]) for name, value in one.named_parameters())


def test_the_unit_of_the_losses() -> None:
    """Score 1 for the mean action in squared error; log-densities move by the logarithm of the unit, shares do not."""
    for scale in (1.0, 1e-3):
        episodes = wave(scale, 5 * scale)
        actions = torch.from_numpy(episodes.actions)
        for kind in ("clone", "gaussian", "categorical"):
            agent = AGENTS[kind](Task.of(episodes))
            torch.nn.init.zeros_(agent.head.linear.weight)
            found = agent.head.loss(torch.zeros(len(actions), 16), actions).mean().item()
            std = np.std(episodes.actions.astype(np.float64), axis=0)
            # A Gaussian head starts with a width of exp(-0.5) spreads; a bin's share is 1 / 41.
            density = 2 * (0.5 * np.log(2 * np.pi) - 0.5 + 0.5 * np.e) + np.log(std).sum()
            wanted = {"clone": 1.0, "gaussian": density, "categorical": 2 * np.log(41)}[kind]
            assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("constant", [0.0, 0.1, -7e5])
def test_a_constant_column(kind: str, constant: float) -> None:
    """Act it exactly, without changing what the other columns learn."""
    episodes = wave(constant=constant)
    agent = trained(kind, episodes, steps=5)
    with torch.no_grad():
        batch = Batch.from_numpy(next(agent.sampler(episodes, batch_size=2, length=STEPS, seed=1)))
        assert (agent.predict(batch)[..., 2] == np.float32(constant)).all()
        loss = agent.loss(batch).total.item()
    without = replace(episodes, actions=episodes.actions[:, :2], action_space=spaces.Box(-np.inf, np.inf, (2,)))
    other = AGENTS[kind](Task.of(without))
    features, head = torch.randn(5, 16), agent.head
    with torch.no_grad():
        keep = [row for row in range(head.linear.out_features) if (row * 3 // head.linear.out_features) != 2]
        if kind == "gaussian":  # means, then widths
            keep = [0, 1, 3, 4]
        other.head.linear.weight.copy_(head.linear.weight[keep])
        other.head.linear.bias.copy_(head.linear.bias[keep])
        actions = torch.from_numpy(episodes.actions[:5])
        assert torch.allclose(head.loss(features, actions), other.head.loss(features, actions[:, :2]))
    assert np.isfinite(loss)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("kind", ["clone", "gaussian", "decision"])
@pytest.mark.parametrize("bound", [20.004, np.inf])
def test_actions_stay_inside_the_space_or_the_recorded_range(kind: str, bound: float, deterministic: bool) -> None:
    episodes = wave(1e-2, 20.0, bound=bound)  # some of the recorded actions lie beyond the finite bound
    agent = AGENTS[kind](Task.of(episodes))
    agent.fit_normalization(episodes)
    torch.nn.init.normal_(agent.head.linear.weight, std=30.0)
    player = Player(agent, 50, deterministic=deterministic)
    taken = player.act(np.random.default_rng(0).normal(size=(50, 3)), np.zeros(50), np.ones(50, bool))
    high = episodes.actions.max(0) if bound == np.inf else np.float32(bound)
    assert (taken <= high).all()
    assert (taken == high).any()
    assert (taken >= episodes.actions.min(0)).all() or bound != np.inf
    assert taken.dtype == np.float32


@pytest.mark.parametrize("kind", ["clone", "categorical", "decision"])
def test_the_compiled_step_stores_actions_in_their_unit(kind: str) -> None:
    """Compare the compiled call with torch's operations, which run with gradients on."""
    episodes = wave(1e-2, 20.0)
    agent = AGENTS[kind](Task.of(episodes))
    agent.fit_normalization(episodes)
    torch.nn.init.normal_(agent.head.linear.weight)
    states = [agent.initial_state(4), agent.initial_state(4)]
    start = torch.ones(4, dtype=torch.bool)
    for step in range(4):
        moment = Moment(torch.randn(4, 3), torch.randn(4), start if step == 0 else ~start)
        by_torch, states[0] = agent.act(moment, states[0])
        with torch.inference_mode():
            compiled, states[1] = agent.act(moment, states[1].clone())
        assert torch.allclose(by_torch, compiled, atol=4e-6, rtol=0)  # two units in the last place at 20
        assert torch.allclose(states[0], states[1], atol=2e-3)
        kept = states[1][:, agent.state_size - agent.memory_size - 2 : agent.state_size - agent.memory_size]
        mean, std = (np.float64(x) for x in (agent.task.action_mean, agent.task.action_std))
        assert kept.double().numpy() == pytest.approx((compiled.double().numpy() - mean) / std, abs=2e-3)


def test_an_older_checkpoint_acts_as_before() -> None:
    """Load a task without action statistics: tanh onto the range, and the previous action in its own unit."""
    values = Task.of(wave(3.0, 1.0)).to_dict()
    del values["action_mean"], values["action_std"]
    agent = AGENTS["clone"](Task.from_dict(values))
    weights = agent.state_dict()
    assert not any(name.startswith("action_units") for name in weights)
    del weights["normalizer.rest"]
    agent.load_state_dict(weights)
    torch.nn.init.normal_(agent.head.linear.weight)
    features = torch.randn(20, 16)
    low, high = torch.tensor(values["action_low"]), torch.tensor(values["action_high"])
    wanted = (low + high) / 2 + (high - low) / 2 * agent.head.linear(features).tanh()
    assert torch.allclose(agent.head.act(features), wanted, atol=1e-6)
    error = (wanted - low) / ((high - low) / 2)
    assert torch.allclose(agent.head.loss(features, low.expand(20, -1)), error.square().mean(1), rtol=1e-5)
    with torch.inference_mode():
        moment = Moment(torch.randn(2, 3), torch.zeros(2), torch.ones(2, dtype=torch.bool))
        action, state = agent.act(moment, agent.initial_state(2))
    assert torch.equal(state[:, :2], action)
