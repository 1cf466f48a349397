"""A flipped bit of a run's or a comparison's small files is noticed, or changes nothing that is read."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare_runs import write_grid
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.compare.grid.plan import ComparedTask, NotDone, read_plan, read_state, write_state
from minrl.runs.folder import CONFIG, GRID, PROGRESS, RELABEL_SUMMARY, RETURNS_TO_GO, STATE, SUMMARY, TARGETS
from minrl.runs.log import STEP, check_log, read_log
from minrl.runs.side_files import read_json, read_summary, read_targets
from minrl.system.config import read_tables
from minrl.system.digests import check_comment
from minrl.training import relabel_returns
from minrl.training.relabel_returns import _read_labels

__all__ = ["cartpole", "own_folders"]


def holds(found: Any, whole: Any) -> bool:
    """Return True if all values are there and equal; the checksum's name may have become another key."""
    if isinstance(whole, dict):
        return all(name in found and holds(found[name], value) for name, value in whole.items())
    if isinstance(whole, list):
        return len(found) == len(whole) and all(map(holds, found, whole))
    return repr(found) == repr(whole)


def flips(file: Path, count: int, read: Callable[[], Any], said: Callable[[], str]) -> int:
    """Flip single bits of a file; return how many were noticed, by an error or on standard error."""
    content, noticed = file.read_bytes(), 0
    whole = read()
    assert said() == ""
    for bit in random.Random(file.name).sample(range(8 * len(content)), count):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            same = holds(read(), whole)
        except ValueError:
            noticed += 1
            continue
        warned = str(file.name) in said()
        assert same or warned, (file.name, bit)
        noticed += warned
    file.write_bytes(content)
    return noticed


def test_a_flipped_bit_is_noticed_or_changes_nothing(
    cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(relabel_returns, "STEPS", 5)
    run, small = (
        tmp_path / "runs/cartpole/mingru/seed_0",
        "--width 8 --depth 1 --steps 4 --log-every 1 --batch-size 2 --length 16 --threads 1",
    )
    play = "--relabel-returns --target-sweep last --evaluate-episodes 1 --evaluate-max-steps 4"
    assert main(["train", "decision", "--data", cartpole, "--out", str(run), *small.split(), *play.split()]) == 0
    write_grid(tmp_path, (0,), (ComparedTask("cartpole", "offline", cartpole, "CartPole"),))
    write_state({"runs/a": NotDone("failed", "a reason"), "runs/b": NotDone("skipped", "another")}, tmp_path)
    logged = read_summary(run)["log"]  # type: ignore[index]

    def curve() -> Any:
        check_log(run, STEP, logged)
        return read_log(run)

    def settings() -> Any:
        check_comment((run / CONFIG).read_text(encoding="utf-8"))
        return read_tables(run / CONFIG, "config")

    def said() -> str:
        return capsys.readouterr().err

    said()
    readers: dict[Path, Callable[[], Any]] = {
        run / SUMMARY: lambda: read_summary(run),
        run / TARGETS: lambda: read_targets(run),
        run / RELABEL_SUMMARY: lambda: read_json(run / RELABEL_SUMMARY, lambda _: None),
        run / RETURNS_TO_GO: lambda: _read_labels(run).tolist(),
        run / PROGRESS: curve,
        run / CONFIG: settings,
        tmp_path / GRID: lambda: read_plan(tmp_path),
        tmp_path / STATE: lambda: read_state(tmp_path),
    }
    for file, read in readers.items():
        assert flips(file, 60, read, said) > 25, file


def test_an_edited_file_may_lose_its_checksum(cartpole: str, tmp_path: Path) -> None:
    write_state({"runs/a": NotDone("failed", "a reason")}, tmp_path)
    values = json.loads((tmp_path / STATE).read_text())
    del values["crc32"]
    values["runs/a"]["reason"] = "another"
    (tmp_path / STATE).write_text(json.dumps(values))
    assert read_state(tmp_path) == {"runs/a": NotDone("failed", "another")}
