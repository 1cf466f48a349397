"""Exported policies of recurrent SAC against the library."""

from pathlib import Path
from typing import Any

import pytest
import torch
from noise import NORMALIZED, TOLD, Noise

from minrl.agents.sac_agent import SACAgent, SACOptions
from minrl.data import EnvironmentInfo
from minrl.data.task import Task
from minrl.export.onnx import export_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


# Torch's exporter takes 4 s each; PPO's tests run it on the same parts.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("observations", "actions", "options"),
    [
        ("box", "box", {**NORMALIZED, **TOLD}),
        ("nested", "discrete", {"share_trunk": True, "cell": "gru"}),
        ("image", "one", {"critic_cell": "lstm", "net_arch": {"pi": []}}),
    ],
)
def test_policies(observations: str, actions: str, options: dict[str, Any], tmp_path: Path) -> None:
    world = Noise(observations, actions)
    task = Task.in_environment(EnvironmentInfo("Noise-v0"), world.observation_space, world.action_space)
    agent = SACAgent(SACOptions(**{"width": 16, "depth": 1} | options), task)
    with torch.no_grad():
        agent.policy.action_net.weight.normal_(std=0.5)
    agreement = export_onnx(agent.eval(), tmp_path / "a.onnx", steps=250).agreement
    assert agreement.action <= 1e-5
    assert agreement.state <= 1e-4
