"""The description of an exported file's inputs, and the examples that act with it.

Shapes: O flat observation width.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from minrl.agents.cli.export import EXAMPLE, EXAMPLE_ALONE
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data import EnvironmentInfo
from minrl.data.task import Task
from minrl.export.onnx import export_onnx
from minrl.play import Player

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# Gymnasium keeps the order of a list of pairs.
SEEN = spaces.Dict(
    [
        ("speed", spaces.Box(-9.0, 9.0, (2, 1), np.float32)),
        ("angle", spaces.Discrete(3, start=1)),
        ("hand", spaces.Tuple([spaces.MultiDiscrete([2, 4], start=[1, 0]), spaces.MultiBinary(2)])),
    ]
)
ACTED = spaces.Dict([("gas", spaces.Box(0.0, 5.0, (1,), np.float32)), ("brake", spaces.Discrete(2))])


def task_of(observation: Any, action: Any, environment: EnvironmentInfo | None) -> Task:
    width = int(spaces.flatdim(action))
    return Task(
        dataset="hdf5:own", observation_space=observation, action_space=action, action_low=(0.0,) * width,
        action_high=(5.0,) * width, action_mean=(0.0,) * width, action_std=(1.0,) * width, best_return=9.0,
        return_scale=3.0, longest_episode=20, environment=environment, reference_scores=None,
    )  # fmt: skip


def assert_described(path: Path) -> None:
    """Compare the description of the inputs with the model's own, in its order."""
    session = runtime.InferenceSession(str(path))
    about = session.get_modelmeta().custom_metadata_map
    inputs = json.loads(about["inputs"])
    assert [part["name"] for part in inputs] == [x.name for x in session.get_inputs()]
    assert [part["shape"] for part in inputs] == [x.shape for x in session.get_inputs()]
    kinds = {"float32": "tensor(float)", "bool": "tensor(bool)"}
    assert [kinds[part["dtype"]] for part in inputs] == [x.type for x in session.get_inputs()]
    columns = (
        "observation/speed [0, 2], observation/angle [2, 5], observation/hand/0 [5, 11], observation/hand/1 [11, 13]"
    )
    assert columns in inputs[0]["about"]
    assert [part["name"] for part in json.loads(about["action_space"])] == ["action/gas", "action/brake"]


def test_the_inputs_and_the_example_without_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flatten observations by Gymnasium, and unflatten actions by the player."""
    monkeypatch.chdir(tmp_path)
    agent = CloneAgent(
        CloneConfig(width=16, depth=1, conv=0, mlp=0.0, previous_action=True), task_of(SEEN, ACTED, None)
    ).eval()
    torch.nn.init.normal_(agent.head.linear.weight)
    export_onnx(agent, "agent.onnx", steps=5)
    assert_described(Path("agent.onnx"))
    found: dict[str, Any] = {}
    exec(EXAMPLE_ALONE, found)
    player, names = Player(agent, 1), []
    SEEN.seed(0)
    for step in range(8):
        observation = SEEN.sample()
        np.testing.assert_array_equal(found["row"](observation), spaces.flatten(SEEN, observation))
        gas, brake = found["act"](observation, 1.0, step == 0)
        batched = {
            "speed": observation["speed"][None], "angle": np.array([observation["angle"]]),
            "hand": tuple(part[None] for part in observation["hand"]),
        }  # fmt: skip
        wanted = player.act(batched, [1.0], [step == 0])
        np.testing.assert_allclose(gas, wanted["gas"][0], atol=1e-5)
        assert brake == wanted["brake"][0]
        names.append(float(gas[0]))
    assert np.ptp(names) > 0.1


def test_the_example_makes_the_environment_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep its keywords and step limit: Sutton and Barto's reward is 0 until the pole falls, then -1."""
    monkeypatch.chdir(tmp_path)
    environment = EnvironmentInfo("CartPole-v1", {"sutton_barto_reward": True}, max_episode_steps=4)
    task = task_of(spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2), environment)
    export_onnx(DecisionAgent(DecisionConfig(width=16, depth=1, conv=0, mlp=0.0), task).eval(), "agent.onnx", steps=5)
    found: dict[str, Any] = {}
    exec(EXAMPLE, found)
    assert found["ends"] == [False, True]
    assert found["state"][0, 2] == 4
    assert found["reward"] == 0.0
