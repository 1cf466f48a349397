"""Budgets of a comparison (equal data or CPU seconds for all runs), sweeps of single methods, chosen settings."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from minrl.agents.__main__ import main
from minrl.agents.cli.families import families
from minrl.compare.grid.at_budget import within
from minrl.compare.grid.plan import ComparisonPlan, PlannedRun, read_plan, write_plan
from minrl.compare.grid.read import read_grid
from minrl.compare.report.chosen import chosen_table
from minrl.compare.run.speeds import SPEEDS, Speeds
from minrl.compare.stats.analysis import analyse
from minrl.compare.stats.curves import learning_curves
from minrl.compare.stats.results import read_comparison

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TASKS = '[tasks.hopper]\ndata = "minari:minrl/hopper/medium-replay-v0"\n'
METHODS_OF_EQUAL_DATA = """
[methods.rows]
cell = "mingru"
offline = { train = { batch_size = 6, length = 50 } }
[methods.windows.offline]
decision = { context = 20 }
train = { batch_size = 7 }
[methods.best.offline]
agent = "clone"
train = { batch_size = 3, length = 10 }
"""
SMALL = "[offline.decision]\nwidth = 8\ndepth = 1\n[offline.clone]\nwidth = 8\ndepth = 1\n"


def read(folder: Path, text: str) -> ComparisonPlan:
    (folder / "grid.toml").write_text(text)
    return read_grid(folder / "grid.toml", families())


def never(run: PlannedRun) -> float:
    raise AssertionError(f"a budget of data measures nothing: {run.key}")


def test_every_run_sees_as_much_data(tmp_path: Path) -> None:
    text = f"seeds = 2\n{TASKS}{METHODS_OF_EQUAL_DATA}[budget]\ndata_steps = 4200\nevaluations = 4\n"
    plan = within(read(tmp_path, text), families(), never)
    batches = {"rows": 6 * 50, "windows": 7 * 20, "best": 3 * 10}
    for run in plan.runs:
        train = run.settings["train"]
        assert train["steps"] * batches[run.method] == 4200
        assert -(-run.steps // train["evaluate_every"]) in (3, 4)
        assert train["log_every"] <= train["evaluate_every"]
    rounded = within(replace(plan, budget=replace(plan.budget, data_steps=4201)), families(), never)  # type: ignore[type-var]
    assert {run.method: run.steps for run in rounded.runs} == {"rows": 15, "windows": 31, "best": 141}
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan


def test_cpu_seconds_are_measured_once(tmp_path: Path) -> None:
    text = f"seeds = 1\n{SMALL}{TASKS}{METHODS_OF_EQUAL_DATA}[budget]\ncpu_seconds = 30\n"
    speeds = Speeds(families(), tmp_path)
    plan = within(read(tmp_path, text), families(), speeds.seconds_of_step)
    for run in plan.runs:
        measured = speeds.seconds_of_step(run)
        assert measured is not None
        assert run.steps == round(30 / measured)
    speeds.save()
    again = Speeds(families(), tmp_path)
    assert within(read(tmp_path, text), families(), again.seconds_of_step) == plan
    hours = again.hours(plan.runs[0])
    assert hours is not None
    assert hours > 30 / 3600 * 0.9
    written = (tmp_path / SPEEDS).read_text()
    other = written.replace('"step": 0', '"step": 1', 1)  # one bit
    for text in ("{", other, "[" * 100_000, '{"a/b": {"step": NaN, "acting": 1.0}}', "3"):
        assert text != written
        (tmp_path / SPEEDS).write_text(text)
        with pytest.raises(ValueError, match=r"speeds.json cannot be read.*: remove it"):
            Speeds(families(), tmp_path)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("data_steps = 5\ncpu_seconds = 5.0", "one of them"),
        ("evaluations = 5", "one of them"),
        ("data_steps = 1.5", "positive whole number"),
        ("cpu_seconds = -1", "positive number"),
        ("steps = 5", 'no key "steps"'),
    ],
)
def test_impossible_budgets_are_refused(budget: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, f'cells = ["mingru"]\n{TASKS}[budget]\n{budget}\n')


def test_the_dry_run_estimates_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(f'cells = ["mingru", "minlstm"]\nseeds = 2\n{TASKS}[tasks.pole]\nenv = "CartPole-v1"\n{SMALL}')
    words = ["compare", str(grid), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main([*words, "--budget", "data_steps=6000"]) == 0
    told = capsys.readouterr().out
    assert "6,000 steps of data a run" in told
    assert "decision, 2 steps: to do" in told
    assert "4 without an estimate" in told
    total, *parts = re.findall(r": ([0-9.e-]+)(?: CPU hours for 4 runs to do|$)", told, re.MULTILINE)
    assert len(parts) == 2
    assert sum(map(float, parts)) == pytest.approx(float(total), rel=0.1)
    assert not (tmp_path / "out").exists()
    assert main([*words, "--budget", "cpu_seconds=10"]) == 2
    assert "a budget of CPU seconds is for data sets" in capsys.readouterr().err
    assert main([*words, "--budget", "hours"]) == 2


def test_a_method_has_lists_of_its_own(tmp_path: Path) -> None:
    text = f"""seeds = 1
{TASKS}
[sweep]
learning_rate = [1e-3, 3e-3]
[methods.gru]
cell = "gru"
[methods.mingru]
cell = "mingru"
[methods.mingru.sweep]
train = [{{ batch_size = 8, length = 160 }}, {{ batch_size = 3, length = 1000 }}]
"""
    plan = read(tmp_path, text)
    assert [(method.name, method.base) for method in plan.methods] == [
        ("gru+learning_rate=0.001", "gru"),
        ("gru+learning_rate=0.003", "gru"),
        ("mingru+batch_size=8+length=160", "mingru"),
        ("mingru+batch_size=3+length=1000", "mingru"),
    ]
    rows = [(run.settings["train"]["batch_size"], run.settings["train"]["length"]) for run in plan.runs]
    assert rows == [(6, 500), (6, 500), (8, 160), (3, 1000)]
    for wrong in ("{ batch = 6 }", "{ data = 'minari:a-v0' }"):
        with pytest.raises(ValueError, match=r"batch|data"):
            read(tmp_path, text.replace("{ batch_size = 8, length = 160 }", wrong))


def test_the_best_combination_of_each_method_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(f"""seeds = 1
{TASKS}{SMALL}
[offline.train]
evaluate_episodes = 2
evaluate_max_steps = 50
target_sweep = "none"
[methods.ours]
cell = "mingru"
[methods.ours.sweep]
learning_rate = [1e-3, 1e-1]
train = [{{ batch_size = 2, length = 50 }}]
[methods.fixed]
cell = "mingru"
[methods.fixed.sweep]
[budget]
data_steps = 400
evaluations = 2
""")
    assert main(["compare", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")]) == 0
    analysis = analyse(read_comparison(tmp_path / "out"))
    means = {name: total.mean.value for name, total in analysis.totals.items() if name != "fixed"}
    assert len(means) == 2
    best = max(means, key=lambda name: means[name])
    (row,) = chosen_table(analysis).rows
    assert row[:2] == ("ours", "2 of 2")
    assert row[3:] == (f"{means[best]:.1f}", f"{min(means.values()):.1f}")
    rate = float(best.partition("learning_rate=")[2].partition("+")[0])
    assert tomllib.loads((tmp_path / "out/report/chosen.toml").read_text()) == {
        "methods": {"ours": {"offline": {"train": {"learning_rate": rate}}}}
    }
    curve = learning_curves(analysis, analysis.tasks[0], "steps").curves[best]
    assert curve.x.tolist() == [200, 400]  # of data, by batches of 2 x 50 steps
    report = (tmp_path / "out/report/report.md").read_text()
    assert "Budget: 400 steps of data a run" in report
