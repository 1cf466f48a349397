"""Exported PPO policies against the library, for every kind of observation and action."""

from pathlib import Path
from typing import Any

import pytest
import torch
from noise import NORMALIZED, TOLD, Noise

from minrl.agents.ppo_agent import PPOAgent, PPOConfig
from minrl.data import EnvironmentInfo
from minrl.data.task import Task
from minrl.export.c.export import export_c
from minrl.export.onnx import export_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def lively(observations: str, actions: str, options: dict[str, Any]) -> PPOAgent:
    """Build an agent whose actions move over their whole range, with statistics as if it had been trained."""
    world = Noise(observations, actions)
    task = Task.in_environment(EnvironmentInfo("Noise-v0"), world.observation_space, world.action_space)
    agent = PPOAgent(PPOConfig(**{"width": 16, "depth": 1} | options), task)
    with torch.no_grad():
        agent.policy.action_net.weight.normal_(std=0.5)
        agent.policy.action_net.bias.normal_(std=0.2)
        if agent.standardizer is not None:
            columns = agent.standardizer.bound.clone()
            for part in agent.spaces.numbers().values():
                agent.standardizer.mean[part] = torch.randn(part.stop - part.start, dtype=torch.float64)
                agent.standardizer.std[part] = 0.1
                columns[part] = 2.0  # so that some values are clipped
            agent.standardizer.bound.copy_(columns)
        if agent.config.normalize_rewards:
            agent.reward_std.fill_(0.3)
    return agent.eval()


# Torch's exporter takes 4 s each: one here, the others in `make test-all`.
@pytest.mark.parametrize(
    ("observations", "actions", "options"),
    [
        pytest.param("box", "one", {**NORMALIZED, **TOLD, "separate_critic": True}, marks=pytest.mark.slow),
        pytest.param("image", "one", {"previous_reward": True, "conv": 0, "mlp": 0.0}, marks=pytest.mark.slow),
        pytest.param(
            "nested", "choices", {**NORMALIZED, "previous_action": True, "conv": 0, "mlp": 0.0},
            marks=pytest.mark.slow,
        ),
        ("box", "discrete", {**NORMALIZED, "previous_action": True, "conv": 0, "mlp": 0.0}),
        pytest.param("box", "box", {"use_sde": True, "previous_action": True}, marks=pytest.mark.slow),
        pytest.param(
            "box", "multidiscrete", {"net_arch": {"pi": [8], "vf": [8, 8]}, **TOLD, "cell": "gru"},
            marks=pytest.mark.slow,
        ),
        pytest.param("discrete", "multibinary", {"normalize_rewards": True, **TOLD}, marks=pytest.mark.slow),
        pytest.param("tuple", "choices", {**NORMALIZED, **TOLD, "cell": "transformer"}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_policies(observations: str, actions: str, options: dict[str, Any], tmp_path: Path) -> None:
    agent = lively(observations, actions, options)
    agreement = export_onnx(agent, tmp_path / "a.onnx", steps=250).agreement
    assert agreement.action <= 1e-5
    assert agreement.state <= 1e-4
    assert agreement.ties <= 2


# A case takes 3 s, most of it torch's exporter.
@pytest.mark.parametrize(
    ("observations", "actions", "options"),
    [
        ("box", "discrete", {"cell": "minlstm"}),
        pytest.param("discrete", "multidiscrete", {**TOLD, "cell": "gru"}, marks=pytest.mark.slow),
        pytest.param("box", "multibinary", {**NORMALIZED, "cell": "lstm"}, marks=pytest.mark.slow),
        pytest.param("tuple", "choices", {**NORMALIZED, **TOLD}, marks=pytest.mark.slow),
        pytest.param("discrete", "one", {"normalize_rewards": True, **TOLD}, marks=pytest.mark.slow),
        pytest.param("box", "box", {"use_sde": True, "separate_critic": True}, marks=pytest.mark.slow),
        pytest.param(
            "multibinary",
            "discrete",
            {"cell_options": {"gate": "hard"}, "net_arch": {"pi": [8], "vf": [8]}},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_policies_as_c(observations: str, actions: str, options: dict[str, Any], tmp_path: Path) -> None:
    agreement = export_c(lively(observations, actions, options), tmp_path, steps=250).agreement
    assert agreement is not None
    assert agreement.action <= 1e-5
    assert agreement.state <= 1e-4
    assert agreement.ties <= 2
