"""Agents as C99: strict compilers and sanitizers are content, and the program acts as the agent does."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from c_policy import COMPILERS, acted
from gymnasium import spaces
from masked_world import Masked
from worlds import drift_episodes

from minrl.agent import Actor, Moment
from minrl.agents.__main__ import main
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.agents.ppo_agent import PPOAgent, PPOConfig
from minrl.data import EnvironmentInfo
from minrl.data.task import Task
from minrl.export.c import export as c_export
from minrl.export.c.export import export_c

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
SMALL: dict[str, Any] = {"width": 12, "depth": 2}
AGENTS: dict[str, tuple[Any, Any, str]] = {
    "minGRU": (DecisionAgent, DecisionConfig(**SMALL), "box"),
    "minLSTM, time step and previous action": (
        DecisionAgent,
        DecisionConfig(cell="minlstm", time_embedding=True, previous_action=True, **SMALL),
        "box",
    ),
    "hard gates": (DecisionAgent, DecisionConfig(cell_options={"gate": "hard", "signed": True}, **SMALL), "box"),
    "GRU, Gaussian": (CloneAgent, CloneConfig(cell="gru", action_loss="gaussian", **SMALL), "box"),
    "LSTM, discrete": (CloneAgent, CloneConfig(cell="lstm", **SMALL), "discrete"),
    "feed-forward": (CloneAgent, CloneConfig(recurrent=False, **SMALL), "discrete"),
}
# One of the fullest in `make test`, and all with all compilers in `make test-all`.
PORTABLE = ("-DPOLICY_PORTABLE",)  # what other processors than x86-64 with AVX2 take
FAST = {("minLSTM, time step and previous action", COMPILERS[0], ())}


def agent_of(name: str) -> Actor:
    family, config, actions = AGENTS[name]
    episodes = drift_episodes(actions)
    agent: Actor = family(config, Task.of(episodes))
    agent.fit_normalization(episodes)  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return agent.eval()


def agree(agent: Actor, folder: Path, compiler: str, steps: int, count: int = 1, flags: tuple[str, ...] = ()) -> None:
    """Compare the program with the agent over steps of `count` environments in which episodes end by chance."""
    random = np.random.default_rng(0)
    observations = random.normal(size=(steps, count, agent.task.observation_size)).astype(np.float32)
    rewards = random.normal(size=(steps, count)).astype(np.float32)
    starts = random.random((steps, count)) < 0.02
    starts[0] = True
    observations[-1, -1] = np.nan
    lines = [
        f"{int(starts[t, env])} {rewards[t, env]:.9g} " + " ".join(f"{x:.9g}" for x in observations[t, env])
        for env in range(count)
        for t in range(steps)
    ]
    found = acted(folder, compiler, lines, *flags)
    state, actions = agent.initial_state(count), []
    with torch.inference_mode():
        for t in range(steps):
            moment = Moment(*(torch.from_numpy(x[t]) for x in (observations, rewards, starts)))
            action, state = agent.act(moment, state)
            actions.append(action.numpy())
    wanted = np.stack(actions, 1).reshape(steps * count, -1)
    first = getattr(agent.task.action_space, "start", 0)
    if wanted.shape[1] == 3:  # one-hot choices
        assert (found[:, 0] != first + wanted.argmax(1)).sum() <= steps * count // 10_000
        assert len(set(found[:, 0])) > 1
        return
    reach = np.array(agent.task.action_high) - np.array(agent.task.action_low)
    assert np.isnan(found[-1]).all()
    assert np.isnan(wanted[-1]).all()
    assert (np.abs(found - wanted) / reach)[:-1].max() <= 1e-5
    assert found[:-1].std(0).min() > 0


@pytest.mark.parametrize(
    ("name", "compiler", "flags"),
    [
        pytest.param(*case, marks=() if case in FAST else (pytest.mark.slow,))
        for case in product(AGENTS, COMPILERS, ((), PORTABLE))
    ],
)
def test_acts_as_the_agent(name: str, compiler: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    agent = agent_of(name)
    written = export_c(agent, tmp_path / "policy", steps=20)
    assert written.agreement is not None
    assert written.agreement.action <= 1e-5
    agree(agent, tmp_path / "policy", compiler, 300, flags=flags)
    source = (tmp_path / "policy" / "policy.c").read_text()
    assert not any(word in source for word in ("malloc", "calloc", "static float", "stdlib"))


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_a_hundred_thousand_steps(name: str, tmp_path: Path) -> None:
    agent = agent_of(name)
    export_c(agent, tmp_path / "policy", steps=20)
    agree(agent, tmp_path / "policy", COMPILERS[0], 2_000, 50)


def test_a_mask_is_one_more_argument(tmp_path: Path) -> None:
    world = Masked(spaces.MultiDiscrete([3, 2]))
    task = Task.in_environment(EnvironmentInfo("Masked-v0"), world.observation_space, world.action_space)
    export_c(PPOAgent(PPOConfig(**SMALL), replace(task, masked=True)).eval(), tmp_path, steps=20)
    random = np.random.default_rng(0)
    only = np.stack([random.integers(3, size=60), random.integers(2, size=60)], 1)  # what the mask leaves
    masks = np.concatenate([np.eye(3, dtype=int)[only[:, 0]], np.eye(2, dtype=int)[only[:, 1]]], 1)
    lines = [f"0 0 {random.normal():.4f} {random.normal():.4f} 1 {' '.join(map(str, mask))}" for mask in masks]
    assert (acted(tmp_path, COMPILERS[0], lines) == only).all()
    assert "const unsigned char action_masks[POLICY_MASK_SIZE]" in (tmp_path / "policy.h").read_text()


def test_what_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episodes = drift_episodes("box")
    agent = DecisionAgent(DecisionConfig(cell="mamba", **SMALL), Task.of(episodes))
    with pytest.raises(ValueError, match="agent decision cannot be written as C: there is no C for ONNX's operator"):
        export_c(agent, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file; give the name of a folder"):
        export_c(agent_of("minGRU"), tmp_path / "file")
    assert main(["export", str(tmp_path)]) == 2
    assert "--onnx or --c is missing" in capsys.readouterr().err


def test_without_a_compiler_it_says_that_nothing_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into what it has written too: the target return is in the state."""
    monkeypatch.setenv("PATH", str(tmp_path))
    written = export_c(agent_of("minGRU"), tmp_path / "policy", target_return=2.5)
    source, header = ((tmp_path / "policy" / name).read_text() for name in ("policy.c", "policy.h"))
    assert "initial[] = {2.5f," in source
    assert "policy_init_target(policy_state *state, float target_return);" in header
    assert written.agreement is None
    assert c_export.ExportedC is type(written)
    assert json.dumps(sorted(p.name for p in (tmp_path / "policy").iterdir())) == '["main.c", "policy.c", "policy.h"]'
