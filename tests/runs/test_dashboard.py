"""The dashboard: real runs in a real TensorBoard server, over HTTP."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from boards import Board, offline
from forked import minrl
from ppo_runs import words
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.runs.dashboard import RunLinks
from minrl.runs.log import read_log
from minrl.training.offline import resume

__all__ = ["cartpole", "own_folders"]


@pytest.fixture
def folder(cartpole: str, tmp_path: Path) -> Path:
    """Create runs of two families in the folders of a comparison."""
    folder = tmp_path / "compared"
    for seed in (0, 1):
        offline(cartpole, folder / f"runs/cloned/mingru/seed_{seed}", seed=seed)
    assert main(words(folder / "runs/online/mingru/seed_0", steps=64)) == 0
    (folder / "grid.toml").touch()
    return folder


@pytest.fixture
def board(folder: Path) -> Iterator[Board]:
    board = Board(folder)
    yield board
    board.process.kill()


@pytest.mark.plots
def test_curves_settings_and_scores_are_served(board: Board, folder: Path) -> None:
    names = {"cloned/mingru/seed_0", "cloned/mingru/seed_1", "online/mingru/seed_0"}
    curves = board.wait_for_runs(names)
    assert board.said[0] == f"3 runs of {folder}; Ctrl-C ends this\n"

    assert board.said[1].split() == ["charts", f"{board.address}charts"]
    assert board.ticked() == dict.fromkeys(names, True)

    layout = board.layout()
    assert list(layout) == ["evaluation", "training", "time"]
    shown = [tag for charts in layout.values() for tags in charts.values() for tag in tags]
    for name in names:
        # Every chart has a curve of this family's runs, or belongs to the other.
        logged = [tag for tag in shown if any(re.match(tag, curve) for curve in curves[name])]
        assert len(logged) >= (9 if name.startswith("online") else 12), logged
    assert all(any(re.match(tag, curve) for found in curves.values() for curve in found) for tag in shown)

    table = board.table()
    assert table.keys() == names
    for name, row in table.items():
        logged = {
            key: value for line in read_log(folder / "runs" / name, "time/time_elapsed") for key, value in line.items()
        }
        assert row["eval/mean_reward"] == pytest.approx(logged["eval/mean_reward"], rel=1e-6)
        assert row["train/loss"] == pytest.approx(logged["train/loss"], rel=1e-6)
        assert row["status"] == "STATUS_SUCCESS"
        assert row["cell"] == "mingru"
        assert row["agent"] == ("ppo" if name.startswith("online") else "decision")
        assert "log_every" not in row
    assert [table[f"cloned/mingru/seed_{seed}"]["seed"] for seed in (0, 1)] == ["0", "1"]
    assert table["cloned/mingru/seed_0"]["validation/loss"] > 0

    points = board.get("data/plugin/custom_scalars/scalars?run=cloned/mingru/seed_0&tag=%5Eeval/target_.*_mean_reward$")
    assert [len(values) for values in points["tag_to_events"].values()] == [2] * len(points["tag_to_events"])
    assert len(points["tag_to_events"]) == 5
    assert "eval/targets" in board.get("data/plugin/images/tags")["cloned/mingru/seed_0"]

    # A run that begins later, in another folder behind a link.
    (folder / "runs/late").symlink_to(folder / "runs/online/mingru/seed_0")
    board.wait_for_runs({*names, "late"})
    assert board.stop() == (0, "")


def test_a_resumed_run_is_one_session(cartpole: str, tmp_path: Path) -> None:
    out = tmp_path / "lonely"
    offline(cartpole, out)
    before = json.loads((out / "targets.json").read_text())
    resume(out)
    assert len(list(out.glob("*tfevents*"))) == 2
    assert json.loads((out / "targets.json").read_text()) == before
    board = Board(out)
    try:
        curves = board.wait_for_runs({"lonely"})
        assert list(board.table()) == ["lonely"]
        assert board.said[0] == f"1 run of {out}; Ctrl-C ends this\n"
        charts = [name for charts in board.layout().values() for name in charts]
        assert len(charts) == len(set(charts))
        assert "eval/mean_reward" in curves["lonely"]
        assert board.stop(signal.SIGTERM) == (0, "")
    finally:
        board.process.kill()


def test_an_impossible_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(tmp_path), "--port", "65536"]) == 2
    assert "port must lie in 0 to 65535, got 65536" in capsys.readouterr().err


def test_folders_without_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for folder, said in (("missing", "no folder"), ("empty", "holds no run")):
        assert main(["dashboard", str(tmp_path / folder)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_an_address_that_cannot_be_bound(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.x.1.0").touch()
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = {
            f"port {port} is taken: choose another with --port, or 0": ("--port", port),
            "TensorBoard cannot listen at no.such.host.invalid: ": ("--port", 0, "--host", "no.such.host.invalid"),
        }
        for said, where in flags.items():
            done = minrl("dashboard", tmp_path, *where)
            assert (done.returncode, done.stdout) == (2, "")
            assert said in done.stderr
            assert done.stderr.count("\n") == 1, done.stderr


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    run = tmp_path / "runs/a"
    run.mkdir(parents=True)
    (run / "events.out.tfevents.1.x.1.0").touch()
    (run / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "into").mkdir()
    links = RunLinks(tmp_path / "runs", tmp_path / "into")
    assert list(links.runs) == ["a"]
    assert [path.name for path in run.iterdir() if path.name != "loop"] == ["events.out.tfevents.1.x.1.0"]
