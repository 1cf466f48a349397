"""Offline recurrent SAC: acting equals predicting, ends of episodes count, the better of recorded actions is learned.

Shapes: B batch, T time.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from acting import largest_gap, play
from worlds import drift_episodes

import minrl
from minrl.agent import Batch
from minrl.agents.__main__ import main
from minrl.agents.offline_sac import OfflineSACAgent, OfflineSACConfig
from minrl.data.task import Task

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("box", {}),
    ("box", {"cell": "minlstm", "critic_cell": "mingru", "previous_action": True}),
    ("discrete", {"previous_action": True, "n_critics": 3}),
]


def agent_of(actions: str = "box", **options: Any) -> OfflineSACAgent:
    """Build a small agent."""
    torch.manual_seed(0)
    episodes = drift_episodes(actions)
    agent = OfflineSACAgent(OfflineSACConfig(**{"width": 8, "depth": 1} | options), Task.of(episodes))
    agent.fit_normalization(episodes)
    return agent.eval()


def batch_of(agent: OfflineSACAgent, actions: str = "box") -> Batch:
    sampler = agent.sampler(drift_episodes(actions), batch_size=3, length=60, seed=1)
    return Batch.from_numpy(next(sampler))


@pytest.mark.parametrize(("actions", "options"), VARIANTS)
def test_acting_equals_predicting_and_every_parameter_learns(actions: str, options: dict[str, Any]) -> None:
    agent = agent_of(actions, **options)
    (record,) = play(agent, actions, [0.0], 100)
    assert record.reset.sum() > 2
    assert largest_gap(agent, record.to(torch.float32)) <= 1e-5
    agent.train().loss(batch_of(agent, actions)).total.backward()
    for name, parameter in agent.named_parameters():
        learns = not name.startswith(("policy.critic_target", "policy.log_ent_coef"))
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns or "action_net" in name, name


def test_targets_tell_ends_from_time_limits() -> None:
    """Check with gamma 0, where targets are rewards, that a last step has a target only if its episode terminated."""
    agent = agent_of(gamma=0.0, cloning=0.0, alpha=0.0)
    batch = batch_of(agent)
    assert batch.terminal is not None
    assert batch.terminal.any()
    assert batch.rewards is not None
    ends = torch.zeros_like(batch.reset)
    ends[:, :-1] = batch.reset[:, 1:]
    assert (batch.terminal[:, :-1] <= ends[:, :-1]).all()
    loss, _ = agent.loss(batch).total, None
    changed = batch.rewards.clone()
    changed[:, -1][~batch.terminal[:, -1]] += 100.0
    changed[ends & ~batch.terminal] += 100.0  # what followed is not known, so nothing is learned there
    assert agent.loss(dataclasses.replace(batch, rewards=changed)).total == loss
    changed[batch.terminal] += 100.0
    assert agent.loss(dataclasses.replace(batch, rewards=changed)).total > loss


def test_the_hidden_state_is_carried() -> None:
    agent = agent_of(cloning=0.0, target_noise=0.0)
    batch = batch_of(agent)
    first, second = (
        dataclasses.replace(batch, **{n: x[:, part] for n, x in batch.tensors().items()})
        for part in (slice(0, 25), slice(25, 60))
    )
    whole, carried = agent.loss(batch).memory, agent.loss(second, agent.loss(first).memory).memory
    torch.testing.assert_close(carried, whole)


def test_bad_data_is_one_line() -> None:
    with pytest.raises(ValueError, match="takes Box and Discrete actions"):
        agent_of("multibinary")
    with pytest.raises(ValueError, match="tau must lie in"):
        OfflineSACConfig(tau=2.0)


def test_the_command_trains_resumes_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "data": "minari:minrl/hopper/medium-replay-v0", "width": 8, "depth": 1, "batch-size": 2, "length": 40,
        "steps": 6, "evaluate-every": 0, "checkpoint-every": 3, "threads": 1,
    }  # fmt: skip
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    for name in ("whole", "cut"):
        assert main(["train", "sac", *flags, "--out", str(tmp_path / name)]) == 0
    agent = minrl.load(tmp_path / "whole")
    assert agent.name == "offline_sac"
    first, second = (minrl.load(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    grid = tmp_path / "grid.toml"
    grid.write_text(
        '[methods.actor-critic.offline]\nagent = "offline_sac"\n[tasks.hopper]\n'
        'data = "minari:minrl/hopper/medium-replay-v0"\n', encoding="utf-8"
    )  # fmt: skip
    capsys.readouterr()
    assert main(["compare", str(grid), "--dry-run", "--out", str(tmp_path / "compare")]) == 0
    assert "actor-critic" in capsys.readouterr().out


@pytest.mark.slow
def test_it_learns_more_than_it_sees() -> None:
    """Compare with cloning, which stays at the mean of random actions where the reward is the action."""
    episodes = drift_episodes(count=40)
    returns = []
    for alpha in (0.0, 10.0):
        torch.manual_seed(0)
        agent = OfflineSACAgent(OfflineSACConfig(width=16, depth=1, alpha=alpha, gamma=0.5), Task.of(episodes))
        agent.fit_normalization(episodes)
        adam = torch.optim.Adam([p for p in agent.parameters() if p.requires_grad], 3e-3)
        sampler = agent.sampler(episodes, batch_size=4, length=100, seed=0)
        for _ in range(300):
            found = agent.train().loss(Batch.from_numpy(next(sampler)))
            adam.zero_grad()
            (found.total / found.count).backward()
            adam.step()
        with torch.no_grad():
            returns.append(float(agent.eval().predict(Batch.from_numpy(next(sampler))).sum(-1).mean()))
    assert returns[1] > returns[0] + 1.0
    assert np.isfinite(returns).all()
