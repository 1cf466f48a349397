"""docs/add_a_cell.md: one file and one dict line make a cell for all agents and commands."""

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import contract
import gymnasium
import pytest
import test_cells
import torch
from pages import DOCS, blocks
from worlds import TINY, own_folders

import minrl
from minrl.agents.__main__ import main
from minrl.cells import CELLS, Cell

__all__ = ["own_folders"]

PAGE = DOCS / "add_a_cell.md"
NAME = "leaky"


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Cell]:
    """Import the page's file as the module that it would be, and add its line to `CELLS`."""
    code, line = (text for kind, text in blocks(PAGE) if kind == "python")
    assert f"minrl/cells/{NAME}.py" in PAGE.read_text(encoding="utf-8")
    file = tmp_path / f"{NAME}.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"minrl.cells.{NAME}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec.loader.exec_module(module)
    entry: dict[str, type[Cell]] = eval(f"{{{line}}}", vars(module))
    assert list(entry) == [NAME]
    monkeypatch.setitem(CELLS, NAME, entry[NAME])
    for key, maker in ((NAME, contract.cell_with(NAME)), (f"backbone-{NAME}", contract.backbone_of(NAME))):
        monkeypatch.setitem(contract.MODELS, key, maker)
    return entry[NAME]


def contract_of(model: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield every test of test_cells.py that runs over all models, with each set of its other parameters."""
    for test in vars(test_cells).values():
        marks = [mark.args for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        if ("name", contract.MODELS) not in marks:
            continue
        sets = [list(sets_of(*mark)) for mark in marks if mark != ("name", contract.MODELS)]
        for chosen in product(*sets):
            yield test, {"name": model, **{key: value for part in chosen for key, value in part.items()}}


def sets_of(names: str | Sequence[str], values: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the sets of parameters that a mark stands for."""
    for value in values:
        yield {names: value} if isinstance(names, str) else dict(zip(names, value, strict=True))


@pytest.mark.parametrize("model", [NAME, f"backbone-{NAME}"])
def test_it_keeps_the_contract(leaky: type[Cell], model: str) -> None:
    cases = list(contract_of(model))
    assert len(cases) >= 15
    for test, arguments in cases:
        test(**arguments)


def test_every_command_takes_it(leaky: type[Cell], tmp_path: Path) -> None:
    """Train offline and by PPO, with an option and in a pattern; load and evaluate the runs."""
    offline = ["train", "decision", "--data", "minari:minrl/hopper/medium-replay-v0", "--evaluate-every", 0]
    online = ["train", "ppo", "--env", "minrl/RepeatPrevious-v0", "--n-envs", 2, "--n-steps", 16, "--threads", 1]
    for number, words in enumerate(
        (
            [*offline, "--steps", 1, *TINY, "--cell", NAME, "--cell-options", "slowest=7"],
            [*online, "--steps", 32, "--evaluate-episodes", 1, "--width", 16, "--cell", f"{NAME},mingru"],
        )
    ):
        run = tmp_path / f"run{number}"
        assert main([*map(str, words), "--out", str(run)]) == 0
        agent = minrl.load(run)
        assert any(isinstance(part, leaky) for part in agent.modules())
        seen = torch.zeros(1, agent.task.observation_size)
        moment = minrl.agent.Moment(seen, torch.zeros(1), torch.tensor([True]))
        action, state = agent.act(moment, agent.initial_state(1))
        assert action.shape == (1, gymnasium.spaces.flatdim(agent.task.action_space))
        assert state.isfinite().all()


def test_its_options_are_checked(leaky: type[Cell], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "ppo", "--env", "minrl/RepeatPrevious-v0", "--cell", NAME, "--cell-options", "slow=7"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert 'has no option "slow"; did you mean "slowest"?' in capsys.readouterr().err
