"""docs/add_an_agent.md: one file and one dict line make an agent, without installing again."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, blocks, commands, run_command, write

import minrl
import minrl.agents
from minrl.agents import AGENTS
from minrl.evaluate import evaluate

PAGE = DOCS / "add_an_agent.md"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the page's files, find its module beside those of agents/, and add its line to `AGENTS`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINRL_CACHE", str(tmp_path / "cache"))
    code, line = (text for kind, text in blocks(PAGE) if kind == "python")
    file = write(tmp_path, code)
    assert file == tmp_path / "agents/weighted.py"
    (config,) = (text for kind, text in blocks(PAGE) if kind == "toml")
    write(tmp_path, config)
    monkeypatch.setattr(minrl.agents, "__path__", [*minrl.agents.__path__, str(file.parent)])
    entry: dict[str, Any] = eval(f"{{{line}}}")
    assert list(entry) == ["weighted"]
    monkeypatch.setitem(AGENTS, "weighted", entry["weighted"])
    monkeypatch.delitem(sys.modules, "minrl.agents.weighted", raising=False)
    return tmp_path


def test_every_command_takes_it(place: Path) -> None:
    for text in (text for kind, text in blocks(PAGE) if kind == "bash"):
        for words in commands(text):
            run_command(words)
    agent = minrl.load(place / "runs/weighted")
    assert agent.name == "weighted"
    assert agent.config.temperature == 0.3
    (result,) = evaluate(agent, episodes=2, max_episode_steps=20)
    assert len(result.returns) == 2
    run_command(["minrl", "train", "weighted", "--config", "weighted.toml", "--out", "runs/of_config"])
    assert minrl.load(place / "runs/of_config").task.observation_size == 11
