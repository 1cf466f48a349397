"""Exported models against the library: equal actions over 1000 steps, for every cell, agent and space.

Shapes: B environments.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from onnx_session import session
from torch.distributions import Distribution
from worlds import ACTIONS, drift_episodes

from minrl.agent import Actor, Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.cells import CELLS
from minrl.data.spaces import unflatten
from minrl.data.task import Task
from minrl.export.check import compare, is_tie
from minrl.export.onnx import INPUTS, NEXT_STATE, Exported, export_onnx
from minrl.export.spaces import ActionDecoder, described
from minrl.play import Player
from minrl.scan import kernel_for

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# The exporter's time grows with the graph: a block is its cell alone where nothing else is asked for.
WHOLE: dict[str, Any] = {"conv": 4, "mlp": 4.0}
SMALL: dict[str, Any] = {"width": 16, "depth": 1, "conv": 0, "mlp": 0.0}


def decision(actions: str = "box", **options: Any) -> DecisionAgent:
    """Build an agent with a data set's normalisation, whose actions move over their whole range."""
    episodes = drift_episodes(actions)
    agent = DecisionAgent(DecisionConfig(**SMALL | options), Task.of(episodes))
    agent.fit_normalization(episodes)
    return lively(agent)


def clone(actions: str = "box", **options: Any) -> CloneAgent:
    episodes = drift_episodes(actions)
    agent = CloneAgent(CloneConfig(**SMALL | options), Task.of(episodes))
    agent.fit_normalization(episodes)
    return lively(agent)


def lively(agent: Any) -> Any:
    torch.nn.init.normal_(agent.head.linear.weight, std=agent.config.width**-0.5)
    return agent.eval()


class Beside:
    """Exported model and player on the same random inputs, each with its own state."""

    def __init__(self, agent: Actor, path: Path, batch_size: int, target: float) -> None:
        self.player, self.session = Player(agent, batch_size, target_return=target), session(path)
        about = self.session.get_modelmeta().custom_metadata_map
        self.state = np.array([json.loads(about["initial_state"])] * batch_size, np.float32)
        self.state[:, 0] = target
        self.random, self.batch_size = np.random.default_rng(batch_size), batch_size

    def step(self, start: float) -> tuple[Any, list[Any]]:
        """Step both, with resets at rate `start`; return the player's action and the model's."""
        observation = self.random.normal(size=(self.batch_size, 3)).astype(np.float32)
        reward = self.random.normal(size=self.batch_size).astype(np.float32)
        starts = self.random.random(self.batch_size) < start
        wanted = self.player.act(observation, reward, starts)
        values = (observation, reward, starts, self.state)
        *actions, self.state = self.session.run(None, dict(zip(INPUTS, values, strict=False)))
        return wanted, actions


# Torch's exporter takes 2 s a cell: three cells of one agent here, all of them by themselves in `make test-all`.
THREE = ",".join(list(CELLS)[::6])


@pytest.mark.parametrize(
    ("cell", "steps"),
    # A few steps show an error of one step; a thousand show that errors do not grow.
    [(THREE, 20), *(pytest.param(cell, 1000, marks=pytest.mark.slow) for cell in CELLS)],
)
def test_every_cell(cell: str, steps: int, tmp_path: Path) -> None:
    depth = cell.count(",") + 1
    # Of width 8 the norm of mLSTM's heads, of 4 numbers, magnifies rounding: 6e-4 of an action, of width 32 3e-6.
    agent = decision(cell=cell, depth=depth, width=32, previous_action=True, time_embedding=True)
    written = export_onnx(agent, tmp_path / "a.onnx", steps=20)
    assert written.agreement.action <= 1e-5
    for batch_size in (1, 5):
        beside, seen = Beside(agent, tmp_path / "a.onnx", batch_size, target=7.0), []
        for step in range(steps):
            wanted, (action,) = beside.step(1.0 if step == 0 else 0.02)
            assert np.abs(action - wanted).max() <= 1e-5 * 3  # ranges of 3 and 5
            seen.append(wanted)
        state = beside.player.state.numpy()
        assert np.abs(beside.state - state).max() <= 1e-4 * max(1.0, np.abs(state).max())
        assert np.std(seen) > 0.3


AGENTS: dict[str, Any] = {
    "triple": lambda: decision(tokens="triple", time_embedding=True),
    "triple of choices, largest return": lambda: decision("mixed", tokens="triple", return_expectile=0.9),
    "refeed": lambda: decision(context=4, refeed=True),
    "refeed of three tokens": lambda: decision(context=3, refeed=True, tokens="triple", cell="transformer"),
    "no cap": lambda: decision("mixed", cap_return=False, previous_action=True),
    "gaussian": lambda: decision(action_loss="gaussian"),
    "bins": lambda: decision(action_loss="categorical", previous_action=True, **WHOLE),
    "clone": lambda: clone("mixed", previous_action=True, **WHOLE),
    "clone without memory": lambda: clone("discrete", recurrent=False),
}


# Torch's exporter takes 4 s each: one of the fullest here, the others in `make test-all`.
FULLEST = ("clone",)


@pytest.mark.parametrize(
    "kind", [*FULLEST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in AGENTS if kind not in FULLEST)]
)
def test_every_kind_of_agent(kind: str, tmp_path: Path) -> None:
    agent = AGENTS[kind]()
    agreement = export_onnx(agent, tmp_path / "a.onnx", steps=100).agreement
    assert agreement.steps == 100
    assert agreement.action <= 1e-5
    assert agreement.state <= 1e-4
    assert agreement.ties <= 2


def parts(action: Any) -> list[Any]:
    """List the arrays of an action in the order of the space."""
    nested = list(action.values()) if isinstance(action, dict) else list(action) if isinstance(action, tuple) else None
    return [action] if nested is None else [array for part in nested for array in parts(part)]


Mixed = tuple[DecisionAgent, Path, Exported]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """Return an agent of several actions, its file, and what was written."""
    agent, path = decision("mixed", previous_action=True), tmp_path_factory.mktemp("mixed") / "a.onnx"
    return agent, path, export_onnx(agent, path, target_return=12.5, steps=5)


@pytest.mark.parametrize(
    "actions", ["mixed", *(pytest.param(name, marks=pytest.mark.slow) for name in ACTIONS if name != "mixed")]
)
def test_actions_in_the_environment_s_form(actions: str, mixed: Mixed, tmp_path: Path) -> None:
    agent, path, _ = mixed
    if actions != "mixed":
        agent, path = decision(actions), tmp_path / "a.onnx"
        export_onnx(agent, path, steps=5)
    beside = Beside(agent, path, 5, target=1.0)
    for step in range(30):
        wanted, taken = beside.step(float(step == 0))
        for ours, theirs in zip(parts(wanted), taken, strict=True):
            assert theirs.shape == ours.shape
            assert theirs.dtype == ours.dtype
            assert theirs == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize("actions", ACTIONS)
def test_decoding_as_a_player_does(actions: str) -> None:
    """Decode rows beyond all bounds too."""
    rows = 4 * torch.randn(50, int(spaces.flatdim(ACTIONS[actions])))
    wanted = parts(unflatten(ACTIONS[actions], rows.numpy()))
    decoder = ActionDecoder(ACTIONS[actions])
    for ours, theirs in zip(decoder(rows), wanted, strict=True):
        assert np.array_equal(ours.numpy(), theirs)
        assert ours.numpy().dtype == theirs.dtype
    assert [part["name"] for part in described(ACTIONS[actions], "action")] == decoder.names


def test_a_file_describes_its_inputs_and_outputs(mixed: Mixed) -> None:
    agent, path, written = mixed
    rows = {"observation": ("batch", 3), "reward": ("batch",), "episode_start": ("batch",)}
    assert written.inputs == rows | {"state": ("batch", agent.state_size)}
    outputs = ["action/flags", "action/move", "action/pick/0", "action/pick/1", NEXT_STATE]
    assert list(written.outputs) == outputs
    assert written.size == path.stat().st_size
    about = session(path).get_modelmeta().custom_metadata_map
    assert json.loads(about["initial_state"]) == agent.initial_state(1, 12.5)[0].tolist()
    assert json.loads(about["target_return"]) == 12.5
    assert (about["agent"], about["environment"]) == ("decision", "Drift-v0")
    assert json.loads(about["state_size"]) == agent.state_size
    (seen,) = json.loads(about["observation_space"])
    named = {"name": "observation", "keys": [], "kind": "Box", "columns": [0, 3]}
    assert seen == named | {"shape": [3], "dtype": "float32", "low": None, "high": None}
    acted = {part["name"]: part for part in json.loads(about["action_space"])}
    assert acted["action/move"]["low"] == [-2.0, 0.0]
    assert (acted["action/pick/0"]["n"], acted["action/pick/0"]["start"]) == (3, -1)
    assert acted["action/pick/1"]["columns"] == [7, 13]
    # No trace of the machine that wrote it.
    content = path.read_bytes()
    assert not any(str(place).encode() in content for place in (Path.home(), Path(__file__).parents[2], sys.prefix))
    model = onnx.load(str(path))
    assert [version.version for version in model.opset_import] == [18]
    assert not model.functions


def test_the_agent_is_left_unchanged_and_the_check_finds_small_errors(tmp_path: Path) -> None:
    agent = decision().train()
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    validates, kernel = Distribution._validate_args, kernel_for(torch.zeros(1))
    export_onnx(agent, tmp_path / "a.onnx", steps=2)
    assert agent.training
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())
    assert (Distribution._validate_args, kernel_for(torch.zeros(1))) == (validates, kernel)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.sha256"]
    with torch.no_grad():
        agent.eval().embed_return.weight.mul_(1.001)
    agreement = compare(session(tmp_path / "a.onnx"), agent, steps=50)
    assert agreement.action > 1e-5


def test_ties_and_wrong_choices() -> None:
    """Accept either choice where two are equally good but for the last digits; elsewhere only the best."""
    agent = clone("discrete")
    near, far = torch.zeros(1, 3), 30 * torch.randn(64, 3)
    state, starts = agent.initial_state(1), torch.ones(1, dtype=torch.bool)

    def choice(observation: torch.Tensor) -> int:
        with torch.inference_mode():
            action, _ = agent.act(Moment(observation, torch.zeros(1), starts), state)
        return int(action.argmax())

    other = next(row[None] for row in far if choice(row[None]) != choice(near))
    first, second = choice(near), choice(other)
    left, right = 0.0, 1.0
    while right - left > 1e-9:
        middle = (left + right) / 2
        left, right = (middle, right) if choice(middle * other) == first else (left, middle)
    start = agent.task.action_space.start
    at = {name: Moment(o, torch.zeros(1), starts) for name, o in {"edge": left * other, "inside": near}.items()}
    assert choice(right * other) == second != first
    for taken, place, tie in [(second, "edge", True), (second, "inside", False), (first, "inside", True)]:
        assert is_tie(agent, at[place], state, 0, [np.array([start + taken])]) is tie


def test_a_wrong_choice_counts_as_one(tmp_path: Path) -> None:
    agent = clone("discrete")
    export_onnx(agent, tmp_path / "a.onnx", steps=2)
    with torch.no_grad():
        agent.head.linear.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    agreement = compare(session(tmp_path / "a.onnx"), agent, steps=20)
    assert (agreement.action, agreement.ties) == (1.0, 0)


def test_a_model_that_differs_is_not_written(tmp_path: Path) -> None:
    class Other(CloneAgent):
        def act(self, *arguments: Any, **options: Any) -> Any:
            action, state = super().act(*arguments, **options)
            return action + (0.0 if torch.compiler.is_compiling() else 1e-3), state

    agent = Other(CloneConfig(**SMALL), clone().task)
    (tmp_path / "a.onnx").write_text("before")
    with pytest.raises(FloatingPointError, match=r"differs from the agent by .* was not written") as caught:
        export_onnx(agent, tmp_path / "a.onnx", steps=3)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.onnx").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: decision(cell="gru", context=4, refeed=True), {}, "acts by refeed, for which its cell cuts"),
        (clone, {"target_return": 3.0}, "agent clone takes no target return"),
        (decision, {"opset": 7}, "opset 7 cannot be written, 18 can"),
        (decision, {"target_return": math.inf}, "target return must be a number, got inf"),
    ],
)
def test_unsupported_agents_and_options_are_refused(
    make: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        export_onnx(make(), tmp_path / "a.onnx", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="holds text"):
        ActionDecoder(spaces.Text(3))
