"""The README: its length, its blocks run as they stand, its scores equal the raw data."""

import csv
import json
import shlex
import statistics
import subprocess
from pathlib import Path

import pytest
from pages import ROOT, blocks, run_page

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert len(TEXT.split()) <= 900


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINRL_CACHE", str(tmp_path / "cache"))
    assert [kind for kind, _ in blocks(README)].count("python") == 2
    run_page(README, tmp_path)


def test_its_scores_are_those_of_the_runs() -> None:
    table = [[cell.strip(" *") for cell in line.strip("| ").split("|")] for line in TEXT.splitlines() if "±" in line]
    written = {row[0]: [score for score in row[2:] if score != "-"] for row in table if len(row) == 5}
    ppo = json.loads((ROOT / "benchmarks/ppo_table.json").read_text(encoding="utf-8"))
    with (ROOT / "benchmarks/regen/scores.csv").open(encoding="utf-8") as file:
        offline = list(csv.DictReader(file))
    for name, task in (("CartPole", "cartpole"), ("Pendulum", "pendulum")):
        for score, method in zip(
            written[f"{name} without velocities, PPO"], ("minGRU", "LSTM", "Transformer"), strict=True
        ):
            assert score == shown([r["mean_return"] for r in ppo if (r["task"], r["method"]) == (task, method)])
    for name, task in (
        ("Hopper, medium-replay", "hopper-medium-replay"),
        ("HalfCheetah, medium", "halfcheetah-medium"),
    ):
        (score,) = written[f"{name}, offline"]
        assert score == shown([float(r["score"]) for r in offline if (r["task"], r["method"]) == (task, "minGRU")])
    parity = (ROOT / "benchmarks/reproduce_results/chomsky.md").read_text(encoding="utf-8")
    for score, cell in zip(written["Parity at length 256, trained to 40"], ("minGRU", "LSTM"), strict=True):
        (row,) = [line.split("|") for line in parity.splitlines() if line.startswith(f"| {cell} |")]
        assert row[6].strip() == score


def shown(values: list[float]) -> str:
    """Return mean ± standard error."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


@pytest.mark.parametrize("command", ["make demo", "make test", "make test-all", "make lint", "make bench", "make docs"])
def test_make_knows_the_targets(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
