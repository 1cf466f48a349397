"""A decision agent that predicts the largest return of the data and takes it as its target.

Shapes: B batch, T time.
"""

import dataclasses
from pathlib import Path
from typing import Any

import acting
import numpy as np
import pytest
import torch
from acting import in_torch, largest_gap, play, variants_and_ways
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from worlds import ACTIONS, cartpole, drift_episodes, own_folders

from minrl.agent import Agent, Batch, Moment
from minrl.agents.__main__ import main
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data import Episodes, build_episodes
from minrl.data.task import Task
from minrl.models.losses import expectile_loss
from minrl.play import Player
from minrl.runs import checkpoint
from minrl.training.offline import TrainConfig, resume, train
from minrl.training.optimizer import Optimizer, Schedule

__all__ = ["cartpole", "in_torch", "own_folders"]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no cap": {"cap_return": False},
    "previous action": {"previous_action": True, "time_embedding": True},
    "triple": {"tokens": "triple"},
    "refeed": {"context": 5, "refeed": True, "previous_action": True},
    "refeed, triple": {"context": 4, "refeed": True, "tokens": "triple"},
    "lstm": {"cell": "lstm"},
    "transformer": {"cell": "transformer", "cell_options": {"context": 7, "heads": 2}},
}


def agent_of(actions: str = "box", **options: Any) -> DecisionAgent:
    """Build a small agent whose outputs and predictions differ much from step to step."""
    episodes = drift_episodes(actions)
    agent = DecisionAgent(
        DecisionConfig(**{"width": 8, "depth": 2, "return_expectile": 0.9} | options), Task.of(episodes)
    )
    agent.fit_normalization(episodes)
    assert agent.largest_return is not None
    with torch.no_grad():
        agent.head.linear.weight.mul_(20)
        agent.largest_return.linear.weight.mul_(3)
    return agent.eval()


def batch_of(agent: Agent, rows: int = 3, length: int = 40) -> Batch:
    sampler = agent.sampler(drift_episodes(), batch_size=rows, length=length, seed=1)
    return Batch.from_numpy(next(sampler)).to(next(agent.parameters()).dtype)


@pytest.fixture
def no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give players no target: those that `play` is given then only enter its records, without effect."""
    monkeypatch.setattr(acting, "Player", lambda agent, count, **_: Player(agent, count))


@pytest.mark.usefixtures("no_target", "in_torch")
@pytest.mark.parametrize(
    ("variant", "way"), variants_and_ways(VARIANTS, "plain"), ids=lambda word: getattr(word, "value", word)
)
def test_acting_equals_predicting(variant: str, way: AutoresetMode) -> None:
    agent = agent_of(**VARIANTS[variant]).double()
    for batch in play(agent, "box", [40.0, -5.0], 150, way):
        assert batch.reset.sum() > 2  # episodes did end
        assert largest_gap(agent, batch) <= 1e-9
        # The target follows from the observations: another past gives other actions.
        later = dataclasses.replace(batch, observations=batch.observations.roll(1, dims=1))
        assert largest_gap(agent, later) > 1e-3


@pytest.mark.usefixtures("no_target", "in_torch")
@pytest.mark.parametrize("actions", ACTIONS)
def test_acting_is_predicting_with_every_kind_of_action(actions: str) -> None:
    agent = agent_of(actions, previous_action=True).double()
    for batch in play(agent, actions, [0.0, 0.0], 100):
        assert largest_gap(agent, batch) <= 1e-9


def test_the_prediction_is_the_target() -> None:
    """Check that it is capped, starts anew at each episode, and ignores rewards."""
    agent = agent_of().double()
    assert agent.largest_return is not None
    plain = DecisionAgent(dataclasses.replace(agent.config, return_expectile=None), agent.task).double().eval()
    plain.load_state_dict(agent.state_dict(), strict=False)
    state, memory = agent.initial_state(2), agent.largest_return.backbone.initial_state(2)
    own, most = plain.initial_state(2, 0.0), float(drift_episodes().returns_to_go.max())
    for step in range(12):
        start = torch.tensor([step in (0, 5), step == 0])
        moment = Moment(torch.randn(2, 3).double(), torch.randn(2).double() * 9, start)
        memory = memory.masked_fill(start.unsqueeze(1), 0.0)
        asked, memory = agent.largest_return.step(agent.normalizer(moment.observation), torch.zeros(2, 2), memory)
        earned = (own[:, 1] + moment.reward).masked_fill(start, 0.0)
        own = torch.cat([(asked.clamp_max(most) + earned).unsqueeze(1), own[:, 1:]], dim=1)
        plain.config = dataclasses.replace(plain.config, cap_return=False)
        action, state = agent.act(moment, state)
        wanted, own = plain.act(moment, own)
        assert torch.allclose(action, wanted, rtol=1e-9, atol=1e-9)
        assert torch.allclose(state[:, 0], asked)


@pytest.mark.parametrize("variant", ["plain", "previous action"])
def test_the_compiled_step_is_torchs(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    from minrl.agents import decision

    found = []

    def watched(*arguments: Any, **options: Any) -> Any:
        found.append(fused(*arguments, **options))
        return found[-1]

    fused = decision.fused_step
    monkeypatch.setattr(decision, "fused_step", watched)
    agent = agent_of(width=24, **VARIANTS[variant])
    state = other = agent.initial_state(3)
    for step in range(200):
        moment = Moment(torch.randn(3, 3), torch.randn(3), torch.rand(3) < (1.0 if step == 0 else 0.02))
        with torch.inference_mode():
            action, state = agent.act(moment, state)
        assert found.pop() is not None
        wanted, other = agent.act(moment, other)
        found.clear()
        assert torch.allclose(action, wanted, rtol=1e-5, atol=1e-5)
    assert torch.allclose(state, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("expectile", [0.5, 0.9, 0.99])
def test_the_expectile_of_two_values(expectile: float) -> None:
    """Compute it for 0 and 1 with chances 1 - p and p: tau p / (tau p + (1 - tau)(1 - p)); at 1/2 the mean."""
    p = 0.2
    e = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    mean_loss = p * expectile_loss(1 - e, expectile) + (1 - p) * expectile_loss(-e, expectile)
    wanted = expectile * p / (expectile * p + (1 - expectile) * (1 - p))
    assert e[mean_loss.argmin()].item() == pytest.approx(wanted, abs=2e-5)


CUES = {0.0: (1.0, 5.0), 1.0: (2.0, 9.0)}  # returns of episodes with this cue


def cued_episodes() -> Episodes:
    """Build episodes whose first observation tells the possible returns, and whose action the one earned."""
    rows: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "rewards")}
    pairs = [(cue, earned) for cue, all_earned in CUES.items() for earned in all_earned] * 10
    for cue, earned in pairs:
        rows["observations"] += [[2 * cue - 1], [0.0], [0.0], [0.0]]
        rows["actions"] += [[0.1 * earned]] * 4
        rows["rewards"] += [0.0, 0.0, 0.0, earned]
    count = len(pairs)
    return build_episodes(
        name="cued", final_observations=np.zeros((count, 1)), lengths=[4] * count, terminated=[True] * count,
        truncated=[False] * count, observation_space=spaces.Box(-1, 1, (1,)), action_space=spaces.Box(-1, 1, (1,)),
        **rows,
    )  # fmt: skip


@pytest.mark.parametrize("tokens", ["step", pytest.param("triple", marks=pytest.mark.slow)])
def test_the_largest_return_of_a_past_is_predicted_and_achieved(tokens: Any) -> None:
    """Check it at every step, though only the first observation carries the cue."""
    torch.manual_seed(1)
    episodes = cued_episodes()
    config = DecisionConfig(width=16, depth=1, dropout=0.0, return_expectile=0.98, tokens=tokens)
    agent = DecisionAgent(config, Task.of(episodes))
    agent.fit_normalization(episodes)
    sampler = agent.sampler(episodes, batch_size=4, length=40, seed=0)
    optimizer = Optimizer(agent, Schedule(1e-2, 300, 0.05, "cosine"), weight_decay=0.0, clip=1.0)
    for step in range(300):
        optimizer.update(Batch.from_numpy(next(sampler)), None, step)
    agent.eval()
    state = agent.initial_state(2)
    for step in range(4):
        observation = torch.tensor([[-1.0], [1.0]]) if step == 0 else torch.zeros(2, 1)
        action, state = agent.act(Moment(observation, torch.zeros(2), torch.full((2,), step == 0)), state)
        # The expectile of two equally likely values (a, b) is a + 0.98 (b - a): 4.92 and 8.86.
        assert state[:, 0].tolist() == pytest.approx([4.92, 8.86], abs=0.3)
        assert action[:, 0].tolist() == pytest.approx([0.5, 0.9], abs=0.05)


@pytest.mark.usefixtures("in_torch")
def test_every_parameter_learns_and_the_state_is_carried() -> None:
    agent = agent_of(previous_action=True).double()
    batch = batch_of(agent)
    whole = agent.loss(batch)
    whole.total.backward()
    assert [n for n, p in agent.named_parameters() if p.grad is None or not p.grad.any()] == []
    cuts = [
        Batch(**{name: x[:, part] for name, x in batch.tensors().items()}) for part in (slice(0, 17), slice(17, 40))
    ]
    first = agent.loss(cuts[0])
    assert first.memory.shape == (3, agent.memory_size)
    second = agent.loss(cuts[1], first.memory)
    assert (first.total + second.total).item() == pytest.approx(whole.total.item(), rel=1e-10)
    assert torch.allclose(second.memory, whole.memory, rtol=1e-10)
    assert agent.loss(cuts[1]).total.item() != pytest.approx(second.total.item(), rel=1e-6)


def test_without_it_an_agent_has_no_extra_parts() -> None:
    episodes = drift_episodes()
    agent = DecisionAgent(DecisionConfig(width=8, depth=1), Task.of(episodes))
    assert not [name for name in agent.state_dict() if name.startswith("largest_return")]
    assert agent.state_size == 3 + 2 + agent.memory_size
    assert agent.memory_size == agent.backbone.state_size
    torch.manual_seed(0)
    first = DecisionAgent(DecisionConfig(width=8, depth=1), Task.of(episodes)).state_dict()
    torch.manual_seed(0)
    second = DecisionAgent(DecisionConfig(width=8, depth=1, return_expectile=0.9), Task.of(episodes)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_target_is_taken() -> None:
    with pytest.raises(ValueError, match="return_expectile predicts the return-to-go: leave target_return out"):
        agent_of(target_return=3.0)
    for wrong in (0.4, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"return_expectile must (lie in \[0.5, 1\)|be finite), got"):
            agent_of(return_expectile=wrong)
    agent = agent_of()
    assert agent.target_return is None
    with pytest.raises(ValueError, match="predicts its return-to-go"):
        agent.initial_state(1, 5.0)
    with pytest.raises(ValueError, match="return_expectile"):
        agent.embed(torch.zeros(1, 3), torch.zeros(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "triple"])
def test_export(variant: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    from minrl.export.onnx import export_onnx

    exported = export_onnx(agent_of(width=16, **VARIANTS[variant]), tmp_path / "agent.onnx", steps=200)
    assert exported.agreement.action <= 1e-5


def test_a_run_resumes_to_the_bit(cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = DecisionConfig(width=16, depth=1, return_expectile=0.95)
    config = TrainConfig(
        data=cartpole, steps=24, batch_size=2, length=24, checkpoint_every=10, evaluate_every=24, evaluate_episodes=3,
        threads=1,
    )  # fmt: skip
    train(DecisionAgent, agent, config, tmp_path / "whole")
    loss, calls = DecisionAgent.loss, iter(range(100))

    def failing(*arguments: Any) -> Any:
        if next(calls) == 17:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(DecisionAgent, "loss", failing)
    with pytest.raises(KeyboardInterrupt):
        train(DecisionAgent, agent, config, tmp_path / "cut")
    monkeypatch.undo()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    result = resume(tmp_path / "cut")
    assert result.evaluation is not None
    assert result.evaluation.target_return is None
    whole, cut = (checkpoint.read(tmp_path / name).weights for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert main(["evaluate", str(tmp_path / "cut"), "--episodes", "2", "--target", "100"]) == 2
    assert main(["evaluate", str(tmp_path / "cut"), "--episodes", "2"]) == 0
