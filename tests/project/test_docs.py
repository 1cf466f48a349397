"""Pages of docs/: every block runs, every link resolves, every table equals its raw data."""

import csv
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pages import DOCS, ROOT, blocks, commands, run_page, write

from minrl.agents.cli.families import families
from minrl.compare.grid.read import read_grid

PAGES = sorted(DOCS.glob("*.md"))
# Tests of their own run them: sweeps.md trains for minutes, the others put a file into a package.
APART = {"sweeps", "add_a_cell", "add_an_agent"}
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to an empty folder with caches of its own; forget modules that a page imports from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("MINRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    torch.set_num_threads(1)


def text_of(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows of a page."""
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]


def shown(values: list[float], decimals: int) -> str:
    """Return mean ± standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.{decimals}f} ± {error:.{decimals}f}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_pages_are_short_and_of_blocks_that_run(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert {kind for kind, _ in blocks(page)} <= {"toml", "bash", "python", "c"}
    assert all(commands(text) for kind, text in blocks(page) if kind == "bash")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if path.startswith("http"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], link


@pytest.mark.parametrize(
    "page",
    # The check of an exported file takes ten seconds by itself.
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem == "export"), id=p.stem) for p in PAGES if p.stem not in APART],
)
def test_every_block_runs(page: Path, place: Path) -> None:
    run_page(page, place)


def test_the_tests_that_hold_the_promises_are_there() -> None:
    named = _TEST.findall(text_of("reliability"))
    assert len(named) >= 15
    for file, name in named:
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_the_scores_are_those_of_the_runs() -> None:
    page = rows(text_of("scores"))
    with (ROOT / "benchmarks/regen/scores.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    for task in {run["task"] for run in runs}:
        name = task.replace("hopper-", "Hopper, ").replace("halfcheetah-", "HalfCheetah, ")
        (row,) = [row for row in page if row[0] == name]
        for method, score in zip(("minGRU", "minLSTM", "minGRU-chosen-target"), row[1:], strict=True):
            found = [float(run["score"]) for run in runs if (run["task"], run["method"]) == (task, method)]
            assert score == shown(found, 1), (task, method)
    table = (ROOT / "benchmarks/ppo_table.md").read_text(encoding="utf-8")
    written = {row[0]: row[3:8] for row in rows(table) if row[0].startswith("`minrl/") and len(row) == 10}
    for name, task in (
        ("CartPole without velocities, 100,000 steps", "`minrl/CartPoleNoVel-v1`"),
        ("Pendulum without velocities, 200,000 steps", "`minrl/PendulumNoVel-v1`"),
        ("Repeat Previous 4, 100,000 steps", "`minrl/RepeatPrevious-v0`"),
    ):
        assert [name, *written[task]] in page
    command = [sys.executable, ROOT / "benchmarks/score_tables.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_speeds_are_those_of_the_table() -> None:
    measured = rows((ROOT / "benchmarks/bench/bench.md").read_text(encoding="utf-8"))
    lines = [row for row in rows(text_of("speed")) if len(row) == 5][2:]
    assert len(lines) >= 10
    for what, shape, ratio, unit, against in lines:
        found = [row for row in measured if row[:4] == [what, shape, "1", ratio] and row[5] == unit]
        assert any(row[7].startswith(against) for row in found), (what, shape, ratio)


def test_the_speed_of_ppo_is_that_of_its_tables() -> None:
    page, tables = text_of("speed"), (ROOT / "benchmarks/ppo_speed.md").read_text(encoding="utf-8")
    found = {row[0]: row for row in rows(tables) if len(row) == 10}
    median, least = found["median of CartPole"], found["smallest of CartPole"]
    for number in (median[5], median[6], median[7], median[9], least[5]):
        assert f"{number} " in page or f"{number})" in page, number
    hopper = [row for row in rows(tables) if len(row) == 10 and row[0] == "Hopper-v5"]
    assert f"Hopper-v5 {hopper[0][5]} times" in page


def test_the_cards_are_those_of_the_cells() -> None:
    from cell_cards import summary

    cards = json.loads((ROOT / "benchmarks/cell_cards.json").read_text(encoding="utf-8"))
    assert summary(cards) in text_of("cells")


def test_the_grid_of_a_sweep(tmp_path: Path) -> None:
    """Compare its combinations with those that the page names."""
    (text,) = [text for kind, text in blocks(DOCS / "sweeps.md") if kind == "toml"]
    path = write(tmp_path, text)
    assert path is not None
    plan = read_grid(path, families())
    assert len(plan.runs) == 8
    assert plan.methods[0].name == "learning_rate=0.001+width=16"
    assert plan.methods[0].name in text_of("sweeps")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_and_a_search(place: Path) -> None:
    """Run the page at full length: two commands, and a program that calls a third."""
    printed = ""
    for kind, text in blocks(DOCS / "sweeps.md"):
        path = write(place, text)
        bin_folder = str(Path(sys.executable).parent)
        command = {"bash": ["bash", "-e", "-c", f'PATH="{bin_folder}:$PATH"\n{text}'], "toml": ["true"]}.get(kind)
        shell = f'PATH="{bin_folder}:$PATH" exec {sys.executable} {path}'
        done = subprocess.run(command or ["bash", "-c", shell], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    assert "8 to do" in printed
    assert (place / "runs/sweep/report/report.md").is_file()
    found = json.loads(printed.splitlines()[-1])
    summaries = [json.loads((place / f"runs/search/{n}/summary.json").read_text()) for n in range(3)]
    assert found["score"] == max(summary["evaluation"]["normalized_score"] for summary in summaries)
