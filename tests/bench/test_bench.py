"""`minrl bench` from the command line: table, JSON, plots, and one line for every mistake."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import fresh
import pytest
import torch

from minrl.agents.__main__ import main
from minrl.agents.cli.bench import GROUPS
from minrl.bench import report
from minrl.bench.results import ERROR, FASTER, SHARE, Ratio, Skipped

# A busy machine that compiles the kernels first takes minutes.
pytestmark = pytest.mark.timeout(900)
QUICK = ["bench", "--quick", "--threads", "1"]


def bench(folder: Path, *words: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    """Run in a process of its own, as it changes the allocator."""
    program = f"import sys\n{before}\nfrom minrl.agents.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    return fresh.run(program, *QUICK, *words, cwd=folder)


# The group `length` starts processes for peaks of memory, as test_reproduce.py and test_bench_peers.py do.
SHORT = [group for group in GROUPS if group != "length"]


@pytest.fixture(
    scope="module", params=[SHORT, pytest.param(list(GROUPS), marks=pytest.mark.slow)], ids=["short", "all"]
)
def groups(request: pytest.FixtureRequest) -> list[str]:
    chosen: list[str] = request.param
    return chosen


@pytest.fixture(scope="module")
def finished(groups: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a quick run, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    done = bench(folder, "--json", "copy.json", "--rounds", "1", "--only", *groups)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_every_figure_exists_and_is_plausible(finished: tuple[Path, str], groups: list[str]) -> None:
    numbers = json.loads((finished[0] / "runs/bench/bench.json").read_text())
    assert (finished[0] / "copy.json").read_text() == (finished[0] / "runs/bench/bench.json").read_text()
    figures = numbers["figures"]
    assert {figure["group"] for figure in figures} == set(groups)
    for figure in figures:
        assert math.isfinite(figure["value"]), figure
        assert figure["value"] > 0 or figure["unit"] == SHARE, figure
        assert figure["peer"]
        assert figure["threads"] == 1
        for times in figure["times"].values():
            assert 0 < times["minimum_seconds"] <= times["median_seconds"]
            assert times["rounds"] >= 1
        if figure["unit"] == FASTER:
            assert figure["value"] == pytest.approx(
                figure["times"]["peer"]["minimum_seconds"] / figure["times"]["ours"]["minimum_seconds"]
            )
            assert figure["clock"] == "CPU time of the process"
    peers = " ".join(figure["peer"] for figure in figures)
    for name in ("memory copy", "nn.GRU,", "nn.LSTM,", "nn.GRUCell in a loop", "log space", "float64", "in a loop"):
        assert name in peers
    assert all(value for key, value in numbers["machine"].items() if key not in ("gpu", "cuda", "cudnn", "load"))
    assert numbers["settings"]["quick"] is True


def test_the_table_has_a_row_for_every_figure(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    numbers = json.loads((folder / "runs/bench/bench.json").read_text())
    table = (folder / "runs/bench/bench.md").read_text()
    assert table in printed
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(numbers["figures"]) + len(numbers["skipped"])
    assert all(row.count("|") == len(report.HEAD) + 1 for row in rows)
    assert f"torch {torch.__version__}" in table
    assert "allocator" in table


def test_plots(finished: tuple[Path, str], groups: list[str]) -> None:
    pytest.importorskip("matplotlib")
    for name in ("runtime", "memory", "latency") if "length" in groups else ("latency",):
        assert (finished[0] / f"runs/bench/{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_peers_that_are_not_installed(tmp_path: Path) -> None:
    gone = ["transformers", "mambapy", "matplotlib"]
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in gone)
    done = bench(tmp_path, "--only", "layer", "latency", "training", "--rounds", "1", before=hidden)
    assert done.returncode == 0, done.stderr
    for name in gone[:2]:
        assert f"| {name} is not installed |" in done.stdout
    assert "no plots: matplotlib is not installed (pip install matplotlib)" in done.stdout
    assert {path.name for path in (tmp_path / "runs/bench").iterdir()} == {"bench.md", "bench.json"}
    assert "÷ cost at K=20" in done.stdout  # our cells alone


MISTAKES: dict[str, tuple[list[str], str]] = {
    "group": (["--only", "ops"], 'unknown group "ops"; did you mean "op"?'),
    "no threads": (["--threads", "0"], "threads must be at least 1, got 0"),
    "many threads": (["--threads", "1", "9999"], "threads must be at most"),
    "word for threads": (["--threads", "all"], "invalid int value: 'all'"),
    "rounds": (["--rounds", "0"], "rounds must be at least 1, got 0"),
    "device": (["--device", "gpu"], 'unknown device "gpu"; choose cpu, cuda or auto'),
    "folder": (["--out", "foreign"], "foreign is not empty and holds no earlier run of minrl bench"),
    "file as folder": (["--out", "foreign/notes.txt"], "foreign/notes.txt"),
    "file": (["--json", "foreign/notes.txt"], "foreign/notes.txt exists and is not from minrl bench"),
    "folder of a file": (["--json", "nowhere/x.json"], "there is no folder nowhere"),
    "flag": (["--round", "3"], 'unknown flag --round; did you mean "--rounds"?'),
}
if not torch.cuda.is_available():
    MISTAKES["GPU"] = (["--device", "cuda"], "device cuda: torch finds no GPU")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("kept")
    words, message = MISTAKES[mistake]
    try:
        code: Any = main([*QUICK, "--only", "error", *words])
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    assert message in error
    assert "\n" not in error
    assert (tmp_path / "foreign/notes.txt").read_text() == "kept"
    assert not list(tmp_path.rglob("bench.json"))


def test_only_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    report.check_folder(tmp_path / "new")
    machine: dict[str, Any] = {}
    report.write(tmp_path / "new", "table", report.to_json([], machine, {}), None)
    report.check_folder(tmp_path / "new")
    (tmp_path / "new/bench.json").write_text("[1]")
    with pytest.raises(ValueError, match="not from minrl bench"):
        report.check_folder(tmp_path / "new")


def test_formats_of_numbers() -> None:
    assert report.format_value(1.3449, "÷ copy") == "1.34"
    assert report.format_value(12.345, FASTER) == "12.3"
    assert report.format_value(1361.2, FASTER) == "1361"
    assert report.format_value(2.34e-7, ERROR) == "2.3e-07"
    assert report.format_value(0.1234, SHARE) == "12.3 %"
    figure = Ratio("op", "it", "B=1", 1, 2.0, FASTER, "peer", 2.5, ">= 6")
    assert report.to_line(figure) == f"it, B=1, threads 1: 2.00 {FASTER}, peer"
    assert report.to_line(Skipped("op", "it", "why")) == "it: not measured, why"
