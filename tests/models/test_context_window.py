"""Agents trained on windows act by `refeed`, wherever their settings come from."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from acting import play
from onnx_session import session
from worlds import TINY, cartpole, drift_episodes, own_folders

from minrl.agent import Agent, Batch
from minrl.agents.__main__ import main
from minrl.agents.cli.families import families
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.compare.grid.read import read_grid
from minrl.data.task import Task
from minrl.export.onnx import export_onnx
from minrl.models.context_window import Refeed, inputs_per_action
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT
from minrl.system.config import read_tables, to_plain
from minrl.system.shipped_configs import shipped_configs

__all__ = ["cartpole", "own_folders"]

KINDS: dict[str, type[Agent]] = {"decision": DecisionAgent, "clone": CloneAgent}
CONFIGS: dict[str, Any] = {"decision": DecisionConfig, "clone": CloneConfig}
K = 5


def agent_of(name: str, **options: Any) -> Any:
    """Build a small agent in float64 whose actions differ much from step to step."""
    episodes = drift_episodes()
    agent: Any = KINDS[name](CONFIGS[name](width=8, depth=2, **options), Task.of(episodes))
    agent.fit_normalization(episodes)
    with torch.no_grad():
        agent.head.linear.weight.mul_(20)
    return agent.double().eval()


def test_every_agent_with_windows_is_tested_here() -> None:
    """Require every agent with a `context` setting in this file's table."""
    for name in checkpoint.agents():
        kind = checkpoint.agent_class(name).config_class
        if "context" in {field.name for field in dataclasses.fields(kind)}:
            assert CONFIGS[name] is kind


@pytest.mark.parametrize("name", CONFIGS)
def test_refeed_is_the_default_where_there_is_context(name: str) -> None:
    assert CONFIGS[name](context=K).refeed is True
    assert not CONFIGS[name]().refeed
    assert CONFIGS[name](context=K, refeed=False).refeed is False
    assert isinstance(agent_of(name, context=K).acting, Refeed)
    with pytest.raises(ValueError, match="refeed needs context"):
        CONFIGS[name](refeed=True)
    assert not isinstance(agent_of("clone", context=K, recurrent=False).acting, Refeed)  # it has no state


@pytest.mark.parametrize("name", CONFIGS)
def test_refeed_follows_a_context_that_is_set_later(name: str) -> None:
    """Leave `refeed` open in settings without context: in a run's config file, and for `dataclasses.replace`."""
    without = CONFIGS[name]()
    assert "refeed" not in to_plain(without)
    assert CONFIGS[name](**to_plain(without) | {"context": K}).refeed is True
    assert dataclasses.replace(without, context=K).refeed is True
    assert dataclasses.replace(CONFIGS[name](refeed=False), context=K).refeed is False
    if name == "clone":
        memoryless = CloneConfig(context=K, recurrent=False)
        assert not memoryless.refeed
        assert dataclasses.replace(memoryless, recurrent=True).refeed is True


@pytest.mark.parametrize("cell", ["mingru", "mamba", "transformer"])
@pytest.mark.parametrize("name", CONFIGS)
def test_an_action_is_that_of_the_last_steps_alone(name: str, cell: str) -> None:
    """Compare each action with the last of a pass over the window that ends there, as in training."""
    agent = agent_of(name, cell=cell, context=K, previous_action=True)
    trained = agent_of(name, cell=cell, context=K, previous_action=True, refeed=False)
    trained.load_state_dict(agent.state_dict())
    (played,) = play(agent, "box", [20.0], 90)
    (carried,) = play(trained, "box", [20.0], 90)
    starts = np.flatnonzero(played.reset[0].numpy())
    if name == "decision":  # the cap is taken off here, by hand
        trained.config = dataclasses.replace(trained.config, cap_return=False)
    gap = 0.0
    for t in range(played.actions.shape[1]):
        begin = max(t - K + 1, starts[starts <= t].max())
        window = {f.name: getattr(played, f.name) for f in dataclasses.fields(Batch)}
        window = {key: value[:, begin : t + 1] for key, value in window.items() if value is not None}
        window["reset"] = torch.zeros_like(window["reset"]).index_fill(1, torch.tensor([0]), True)
        asked = window["returns_to_go"] - max(0.0, 20.0 - agent.task.best_return)
        batch = Batch(**window | {"returns_to_go": asked})
        with torch.no_grad():
            gap = max(gap, float((trained.predict(batch)[:, -1] - played.actions[:, t]).abs().max()))
    assert gap < 1e-9
    steps = min(played.actions.shape[1], carried.actions.shape[1])
    assert not torch.allclose(played.actions[:, :steps], carried.actions[:, :steps])


@pytest.mark.parametrize("name", CONFIGS)
def test_from_the_command_line(name: str, cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [name, *map(str, TINY), "--data", cartpole, "--steps", "2", "--evaluate-every", "0", "--context", "4"]
    assert main(["train", *flags, "--out", str(tmp_path / "a")]) == 0
    assert "carried state" not in capsys.readouterr().err
    loaded: Any = checkpoint.load(tmp_path / "a")
    assert isinstance(loaded.acting, Refeed)
    assert "refeed = true" in (tmp_path / "a/config.toml").read_text()
    # The settings of a run on whole trajectories, with a context by flag.
    assert main(["train", *flags[:-2], "--out", str(tmp_path / "whole")]) == 0
    words = [name, "--config", str(tmp_path / "whole/config.toml"), "--context", "4", "--out", str(tmp_path / "c")]
    assert main(["train", *words]) == 0
    assert "carried state" not in capsys.readouterr().err
    again: Any = checkpoint.load(tmp_path / "c")
    assert isinstance(again.acting, Refeed)
    assert main(["train", *flags, "--no-refeed", "--out", str(tmp_path / "b")]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "carried state" in line)
    assert line.startswith("minrl: no-refeed: the agent trains on windows of 4 steps")
    kept: Any = checkpoint.load(tmp_path / "b")
    assert kept.acting is kept.backbone


def test_checkpoints_keep_their_refeed(tmp_path: Path) -> None:
    """Load `refeed` as saved, and as False from a clone's older file, which lacks it."""
    for name in CONFIGS:
        agent = agent_of(name, context=K, refeed=False).float()
        checkpoint.save(tmp_path / LAST_CHECKPOINT, agent, step=1)
        saved = torch.load(tmp_path / LAST_CHECKPOINT, weights_only=True)
        assert saved["config"]["refeed"] is False
        if name == "clone":
            del saved["config"]["refeed"]
            torch.save(saved, tmp_path / LAST_CHECKPOINT)
        loaded: Any = checkpoint.load(tmp_path)
        assert loaded.acting is loaded.backbone
        assert loaded.state_size == agent.state_size


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_in_an_onnx_file(name: str, tmp_path: Path) -> None:
    agent = agent_of(name, context=K).float()
    export_onnx(agent, tmp_path / "a.onnx", steps=40)
    state = session(tmp_path / "a.onnx").get_inputs()[-1]
    assert state.shape[-1] == agent.state_size
    # Target return, earned return and time step; the last action; K - 1 inputs with a flag each.
    assert agent.state_size == (3 if name == "decision" else 0) + 2 + (K - 1) * (8 + 1)


def test_an_action_costs_as_many_inputs_as_the_window_has() -> None:
    """Compare with the tokens of a window: K a step, or 3 K without the last action's."""
    assert [inputs_per_action(agent_of(name, context=K)) for name in CONFIGS] == [K, K]
    assert inputs_per_action(agent_of("decision", context=K, tokens="triple")) == 3 * K - 1
    assert inputs_per_action(agent_of("clone")) == inputs_per_action(agent_of("clone", context=K, refeed=False)) == 1


def test_in_a_grid(tmp_path: Path) -> None:
    text = '[methods.m.offline.decision]\ncontext = 4\n[methods.n.offline]\nagent = "clone"\nclone = { context = 4 }\n'
    (tmp_path / "grid.toml").write_text(f'seeds = 1\n[tasks.t]\ndata = "minari:a/b-v0"\n{text}', encoding="utf-8")
    plan = read_grid(tmp_path / "grid.toml", families())
    assert [run.settings[run.agent]["refeed"] for run in plan.runs] == [True, True]


def test_shipped_configs_with_a_context_set_refeed() -> None:
    found = 0
    for name, path in shipped_configs().items():
        tables = read_tables(path, "config")
        for table in (tables.get("decision", {}), tables.get("offline", {}).get("decision", {})):
            if "context" in table:
                found += 1
                assert table.get("refeed") is True, name
    assert found >= 3


def test_a_caution_is_for_training_alone(capsys: pytest.CaptureFixture[str]) -> None:
    agent = agent_of("decision", context=K, refeed=False)
    assert len(agent.cautions()) == 1
    assert agent_of("decision", context=K).cautions() == agent_of("decision").cautions() == []
    assert agent_of("clone", context=K, recurrent=False).cautions() == []
    assert capsys.readouterr().err == ""
