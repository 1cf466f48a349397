"""A part of a comparison at a time, by methods and tasks."""

from pathlib import Path

import pytest
from comparisons import assert_same, both, grid, runs
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.runs import checkpoint

__all__ = ["cartpole", "own_folders"]


def test_a_part_of_a_comparison(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train one method on one task, then the other method, then the rest: the report is that of all at once."""
    path = grid(tmp_path, f"{both(cartpole)}[methods.BC.offline]\nagent = 'clone'\n")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["compare", str(path), "--out", str(whole)]) == 0
    command = ["compare", str(path), "--out", str(parts)]
    assert main([*command, "--methods", "mingru", "--tasks", "data"]) == 0
    assert runs(parts) == ["data/mingru/seed_0"]
    assert "1 of 4 runs have a score" in (parts / "report/report.md").read_text()
    capsys.readouterr()
    assert main([*command, "--tasks", "data", "--dry-run"]) == 0
    assert "1 done, 1 to do" in capsys.readouterr().out
    assert main([*command, "--methods", "BC"]) == main(command) == 0
    assert_same(whole, parts)
    # Of runs with other settings --redo removes those of the part, and none where others are left over.
    path.write_text(path.read_text().replace("steps = 20", "steps = 10"))
    capsys.readouterr()
    assert main([*command, "--methods", "BC", "--redo"]) == 2
    assert "runs/data/mingru/seed_0 holds a run with other settings (steps = 20" in capsys.readouterr().err
    assert len(runs(parts)) == 4
    assert main([*command, "--tasks", "data", "--redo"]) == 0
    assert checkpoint.read(parts / "runs/data/BC/seed_0").step == 10
