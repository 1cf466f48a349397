"""Grid files: their layers of settings, and one line for every mistake."""

from pathlib import Path
from typing import Any

import pytest

from minrl.agents.__main__ import main
from minrl.agents.cli.families import families
from minrl.compare.grid.part import part_of
from minrl.compare.grid.plan import ComparisonPlan, read_plan, write_plan
from minrl.compare.grid.read import read_grid

ROOT = Path(__file__).resolve().parent.parent.parent
FAMILIES = families()
TASK = '[tasks.t]\ndata = "minari:a/b-v0"\n'
ONLINE = '[tasks.o]\nenv = "CartPole-v1"\n'


def plan_of(text: str, folder: Path, **options: Any) -> ComparisonPlan:
    path = folder / "grid.toml"
    path.write_text(text, encoding="utf-8")
    return read_grid(path, FAMILIES, **options)


def test_a_short_grid(tmp_path: Path) -> None:
    plan = plan_of(f'cells = ["mingru", "transformer"]\nseeds = 2\n{TASK}{ONLINE}', tmp_path)
    assert plan.title == "grid"
    assert [(t.name, t.family, t.source) for t in plan.tasks] == [
        ("t", "offline", "minari:a/b-v0"),
        ("o", "online", "CartPole-v1"),
    ]
    assert [run.key for run in plan.runs] == [
        f"runs/{task}/{method}/seed_{seed}" for seed in (0, 1) for task in "to" for method in ("mingru", "transformer")
    ]
    offline, online = plan.runs[1], plan.runs[7]
    assert (offline.agent, offline.settings["decision"]["cell"]) == ("decision", "transformer")
    assert (online.agent, online.settings["ppo"]["cell"], online.settings["train"]["seed"]) == ("ppo", "transformer", 1)
    # Settings of the comparison itself: results that neither machine nor interruption changes.
    assert offline.settings["train"]["threads"] == online.settings["train"]["threads"] == 1
    assert online.settings["train"]["exact_resume"]


LAYERS = [
    ("", 128),
    ("[offline.decision]\nwidth = 16", 16),
    ("[tasks.t.decision]\nwidth = 32", 32),
    ("[methods.m.offline.decision]\nwidth = 64", 64),
    ("[methods.m.tasks.t.decision]\nwidth = 256", 256),
]


@pytest.mark.parametrize("count", range(len(LAYERS)))
def test_each_layer_overrides_the_one_before(count: int, tmp_path: Path) -> None:
    # In reverse order, which must not matter.
    tables = [text for text, _ in reversed(LAYERS[: count + 1])]
    plan = plan_of("\n".join(['seeds = 1\n[methods.m]\ncell = "minlstm"', TASK, *tables]), tmp_path)
    assert plan.runs[0].settings["decision"]["width"] == LAYERS[count][1]
    assert plan.runs[0].settings["decision"]["cell"] == "minlstm"


@pytest.mark.parametrize(
    ("below", "above", "left"),
    [
        ("target_return = 5.0", "return_expectile = 0.9", {"return_expectile": 0.9}),
        ("return_expectile = 0.9", "target_return = 5.0", {"target_return": 5.0}),
    ],
)
def test_of_two_exclusive_settings_the_upper_stays(
    below: str, above: str, left: dict[str, float], tmp_path: Path
) -> None:
    tables = f"[tasks.t.decision]\n{below}\n[methods.m.offline.decision]\n{above}\n"
    settings = plan_of(f'seeds = 1\n[methods.m]\ncell = "mingru"\n{TASK}{tables}', tmp_path).runs[0].settings
    options = settings["decision"]
    assert {key: options[key] for key in ("target_return", "return_expectile") if options.get(key) is not None} == left
    both = f"{tables.rstrip()}\n{below}\n"
    with pytest.raises(ValueError, match="leave target_return out, or return_expectile"):
        plan_of(f'seeds = 1\n[methods.m]\ncell = "mingru"\n{TASK}{both}', tmp_path)


def test_config_files_lie_under_the_tables_beside_them(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        '[decision]\ndepth = 5\ncell = "lstm"\n[train]\nbatch_size = 7\ndata = "d4rl:x"'
    )
    text = """
seeds = [4]
[methods.m]
cell = "gru"
[offline.train]
batch_size = 3
[tasks.t]
data = "minari:a/b-v0"
config = "base.toml"
decision = { width = 16 }
[tasks.u]
data = "minari:a/c-v0"
"""
    task, other = plan_of(text, tmp_path).runs
    assert {key: task.settings["decision"][key] for key in ("depth", "width", "cell")} == {
        "depth": 5,
        "width": 16,
        "cell": "gru",
    }
    assert (task.settings["train"]["batch_size"], task.settings["train"]["data"]) == (7, "minari:a/b-v0")
    assert (other.settings["train"]["batch_size"], other.seed) == (3, 4)


def test_settings_that_only_fit_together_may_stand_in_different_layers(tmp_path: Path) -> None:
    """Set `refeed`, an error by itself, in one layer and its `context` in another."""
    layers = "[offline.decision]\nrefeed = true\n[methods.m.offline.decision]\ncontext = 4"
    settings = plan_of(f"[methods.m]\n{TASK}{layers}", tmp_path).runs[0].settings
    assert (settings["decision"]["refeed"], settings["decision"]["context"]) == (True, 4)


def test_methods_choose_their_agent(tmp_path: Path) -> None:
    method = '[methods.BC.offline]\nagent = "clone"\nclone = { top = 0.1 }\n'
    run = plan_of(f"{method}{TASK}[offline.clone]\nwidth = 16\n[offline.decision]\nwidth = 8", tmp_path).runs[0]
    assert run.agent == "clone"
    assert (run.settings["clone"]["top"], run.settings["clone"]["width"]) == (0.1, 16)
    assert set(run.settings) == {"clone", "train"}


def test_a_file_of_data_is_found_from_the_grid(tmp_path: Path) -> None:
    plan = plan_of('cells = ["mingru"]\n[tasks.t]\ndata = "hdf5:sets/a.hdf5"', tmp_path)
    assert plan.tasks[0].source == f"hdf5:{tmp_path}/sets/a.hdf5"


def test_the_plan_in_the_folder_is_the_same(tmp_path: Path) -> None:
    text = f"""
title = "Both"
seeds = [3, 1]
cells = ["mingru"]
[methods.wide]
label = "Wide & deep"
offline = {{ decision = {{ width = 256, cell_options = {{ expand = 2.0 }} }} }}
[published]
DT = "somewhere"
{ONLINE}
low = -1
high = 2.5
[tasks.t]
data = "minari:a/b-v0"
label = "Task T"
published = {{ DT = 42 }}
"""
    plan = plan_of(text, tmp_path)
    write_plan(plan, tmp_path, products="torch")
    assert read_plan(tmp_path) == plan
    assert (plan.tasks[0].low, plan.tasks[0].high, plan.tasks[1].published) == (-1.0, 2.5, {"DT": 42.0})
    assert plan_of(text, tmp_path, seeds=1).seeds == (0,)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/compare").glob("*.toml")), ids=lambda path: path.stem)
def test_the_grids_that_ship(path: Path) -> None:
    plan = read_grid(path, FAMILIES)
    assert len({run.key for run in plan.runs}) == len(plan.tasks) * len(plan.methods) * len(plan.seeds)
    assert len(plan.seeds) >= 3 or path.stem.endswith("search")  # which chooses settings and reports no scores
    for task in plan.tasks:
        assert set(task.published) <= set(plan.sources)


def test_the_published_averages() -> None:
    """Compare the nine sets' mean with the averages that the paper prints beside the scores."""
    plan = read_grid(ROOT / "configs/compare/d4rl.toml", FAMILIES)
    averages = {"DT": 76.4, "DS4": 68.6, "DAaren": 75.0, "DMamba": 78.8, "minLSTM": 78.1, "minGRU": 78.2}
    for name, average in averages.items():
        assert sum(task.published[name] for task in plan.tasks) / 9 == pytest.approx(average, abs=0.05)


MISTAKES = {
    "no task": ('cells = ["mingru"]', "nothing to compare: it needs [tasks.NAME]"),
    "no method": (TASK, "it needs [methods.NAME], [sweep] or cells"),
    "unknown table": (f'cells = ["mingru"]\n{TASK}[task.x]', 'no key "task"; did you mean "tasks"?'),
    "unknown cell": (f'cells = ["mingro"]\n{TASK}', 'unknown cell "mingro"; did you mean "mingru"?'),
    "unknown cell of a method": (f'[methods.m]\ncell = "lstn"\n{TASK}', 'unknown cell "lstn"; did you mean "lstm"?'),
    "twice": (f'cells = ["gru", "gru"]\n{TASK}', "cells is a list of different names"),
    "no source": ('cells = ["mingru"]\n[tasks.t]', "[tasks.t] of grid.toml names its data or its env"),
    "empty source": ('cells = ["mingru"]\n[tasks.t]\ndata = "d4rl:"', '"d4rl:" is incomplete'),
    "key of a task": (f'cells = ["mingru"]\n{TASK}lable = "x"', 'no key "lable"; did you mean "label"?'),
    "other family": (f'cells = ["mingru"]\n{TASK}ppo = {{ width = 8 }}', '[tasks.t] of grid.toml has no key "ppo"'),
    "unknown setting": (
        f'cells = ["mingru"]\n{TASK}[offline.train]\nstep = 3',
        '[train] in [offline] of grid.toml has no key "step"; did you mean "steps"?',
    ),
    "type": (
        f'cells = ["mingru"]\n{TASK}[methods.mingru.tasks.t.decision]\nwidth = "x"',
        "width in [decision] in [methods.mingru.tasks.t] of grid.toml must be of type int, got 'x'",
    ),
    "impossible": (
        f'cells = ["mingru"]\n{TASK}[offline.decision]\nrefeed = true',
        "method mingru on task t: refeed needs context",
    ),
    "no evaluation": (f'cells = ["mingru"]\n{TASK}train = {{ evaluate_every = 0 }}', "evaluate_every must be above 0"),
    "the grid's own": (f'cells = ["mingru"]\n{TASK}train = {{ seed = 3 }}', "seed belongs to the grid"),
    "unknown task": (f"[methods.m.tasks.hoper]\n{TASK}", 'settings for a task "hoper"'),
    "unknown agent": (f'[methods.m.offline]\nagent = "clown"\n{TASK}', 'unknown agent "clown"; did you mean "clone"?'),
    "no table": (f'cells = ["mingru"]\noffline = 3\n{TASK}', "offline must be a table, got 3"),
    "many seeds": (f'cells = ["mingru"]\nseeds = {10**30}\n{TASK}', "seeds is at most 10,000"),
    "a large seed": (f'cells = ["mingru"]\nseeds = [{2**32}]\n{TASK}', "or which ([0, 1, 2])"),
    "seeds": (f'cells = ["mingru"]\nseeds = 0\n{TASK}', "seeds is how many (3) or which ([0, 1, 2]), got 0"),
    "seed twice": (f'cells = ["mingru"]\nseeds = [1, 1]\n{TASK}', "a seed is named twice"),
    "name": (f'[methods."a/b"]\n{TASK}', '"a/b" names a folder'),
    "scale": (f'cells = ["mingru"]\n{TASK}low = 3', "low and high are the returns that count as 0 and 100"),
    "published": (f'cells = ["mingru"]\n{TASK}published = {{ DT = "x" }}', "DT must be a number, got 'x'"),
    "no config": (f'cells = ["mingru"]\n{TASK}config = "gone.toml"', "gone.toml cannot be read: no such file"),
    "no TOML": ("cells = [", "grid grid.toml is not TOML"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, wanted = MISTAKES[name]
    Path("grid.toml").write_text(text, encoding="utf-8")
    assert main(["compare", "grid.toml", "--dry-run"]) == 2
    said = capsys.readouterr()
    assert wanted in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_part_of_a_grid_is_named_by_methods_and_tasks(tmp_path: Path) -> None:
    plan = plan_of(f'cells = ["mingru", "gru"]\n[methods.mingru.sweep]\nwidth = [8, 16]\n{TASK}{ONLINE}', tmp_path)

    def keys(**names: list[str]) -> set[tuple[str, str, int]]:
        return {(run.task, run.method, run.seed) for run in part_of(plan, **names).runs}

    assert keys() == {(run.task, run.method, run.seed) for run in plan.runs}
    swept = {(task, f"mingru+width={width}", seed) for task in "to" for width in (8, 16) for seed in range(3)}
    assert keys(methods=["mingru"]) == swept
    assert keys(methods=["mingru+width=8", "gru"], tasks=["o"]) == {
        ("o", method, seed) for method in ("mingru+width=8", "gru") for seed in range(3)
    }
    assert part_of(plan, ["gru"], ["t"]).methods == plan.methods


def test_flags_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, wanted in {
        ("gone.toml",): "grid gone.toml cannot be read: no such file",
        ("gone.toml", "--report-only"): "is no comparison's folder",
        ("search", "--methods", "mingru"): 'the grid has no method "mingru"; did you mean "minGRU"?',
        ("search", "--dry-run", "--tasks", "hopper"): 'the grid has no task "hopper"; did you mean "hopper-medium"?',
        ("gone.toml", "--workers", "2"): "are for --on ray",
        ("gone.toml", "--on", "ray", "--workers", "0"): "--workers must be at least 1",
        ("gone.toml", "--on", "ray", "--cpus-per-run", "0"): "a run needs CPUs",
    }.items():
        assert main(["compare", *words]) == 2
        assert wanted in capsys.readouterr().err
