"""Agents of the command line and of `minrl.load`: those that ship, and those of other packages."""

import os
from pathlib import Path

import fresh
import pytest

from minrl import agents
from minrl.agent import Actor
from minrl.agents.__main__ import main
from minrl.runs import checkpoint

OUTSIDE = '''"""Copy the data."""
from minrl.agents.clone import CloneAgent


class First(CloneAgent):
    name = "first"


class Second(CloneAgent):
    name = "second"


class Third(CloneAgent):
    name = "third"
'''
ENTRIES = """[minrl.agents]
outside = outside.agents:TABLE
third = outside.agents.clones:Third
absent = outside.agents:Absent
number = math:pi
broken = outside.broken:TABLE
"""
PROGRAM = """
from minrl.agents.__main__ import main
from minrl.runs.checkpoint import agent_class, agents
print(*agents())
for name in ("first", "second", "third"):
    print(agent_class(name).__module__, agent_class(name).__name__)
for name in ("absent", "number", "broken", "lost"):
    try:
        agent_class(name)
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_agent_of_the_table_is_loaded_by_its_name(name: str) -> None:
    kind = checkpoint.agent_class(name)
    assert issubclass(kind, Actor)
    assert kind.name == name


def test_an_agent_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that the command line lists the agent and gives it flags, without installing anything again."""
    (tmp_path / "brisk.py").write_text(OUTSIDE.replace("minrl.agents.clone", ".clone"), encoding="utf-8")
    monkeypatch.setattr(agents, "__path__", [*agents.__path__, str(tmp_path)])
    monkeypatch.setitem(agents.AGENTS, "first", "brisk:First")
    for words in (["train", "--help"], ["train", "first", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(words)
    text = capsys.readouterr().out
    assert "Copy the data." in text
    assert "minrl train first --data NAME --out RUN" in text
    assert "--previous-action" in text


def test_an_installed_package_adds_its_agents(tmp_path: Path) -> None:
    """Declare agents by a class or a table; a broken one gives one line and leaves the others usable."""
    package = tmp_path / "outside" / "agents"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    table = {"first": "clones:First", "second": "clones:Second", "lost": "clones:Lost"}
    (package / "__init__.py").write_text(f"TABLE = {table}\n")
    (package / "clones.py").write_text(OUTSIDE)
    (package.parent / "broken.py").write_text("import no_such_module\n")
    folder = tmp_path / "outside-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ENTRIES)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = fresh.run(PROGRAM, env=environment)
    assert done.returncode == 0, done.stderr
    listed, *rows = done.stdout.splitlines()
    assert set(listed.split()) >= {*agents.AGENTS, "first", "second", "third", "absent", "number", "broken"}
    assert rows[:3] == [f"outside.agents.clones {name}" for name in ("First", "Second", "Third")]
    absent, number, broken, lost = rows[3:]
    assert absent.startswith('agent "absent" (outside.agents:Absent) cannot be imported: ')
    assert number == 'agent "number" (math:pi) is no subclass of minrl.agent.Actor'
    assert broken == "agent \"broken\" (outside.broken:TABLE) cannot be imported: No module named 'no_such_module'"
    assert lost.startswith('agent "lost" (outside.agents.clones:Lost) cannot be imported: ')
