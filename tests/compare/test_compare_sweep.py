"""Sweeps of a grid: every combination once, named by its differing settings."""

from itertools import product
from pathlib import Path

import pytest

from minrl.agents.cli.families import families
from minrl.compare.grid.plan import ComparisonPlan
from minrl.compare.grid.read import read_grid
from minrl.compare.run.runner import survey

TASKS = '[tasks.hopper]\ndata = "minari:minrl/hopper/medium-replay-v0"\n'
ONLINE = '[tasks.pole]\nenv = "CartPole-v1"\n'


def read(folder: Path, text: str) -> ComparisonPlan:
    (folder / "grid.toml").write_text(text)
    return read_grid(folder / "grid.toml", families())


def test_lists_multiply(tmp_path: Path) -> None:
    sweep = '[sweep]\nlearning_rate = [1e-3, 3e-3]\nwidth = [16, 32, 64]\ncell = ["mingru", "gru"]\n'
    plan = read(tmp_path, f"seeds = 2\n{TASKS}{ONLINE}{sweep}")
    found = {
        (run.task, run.seed, run.settings["train"]["learning_rate"], table["width"], table["cell"])
        for run in plan.runs
        for table in [run.settings[run.agent]]
    }
    assert found == set(product(("hopper", "pole"), (0, 1), (0.001, 0.003), (16, 32, 64), ("mingru", "gru")))
    assert len(plan.runs) == len(found)
    assert len({run.key for run in plan.runs}) == len(found)
    for run in plan.runs:
        rate, table = run.settings["train"]["learning_rate"], run.settings[run.agent]
        assert run.method == f"learning_rate={rate}+width={table['width']}+cell={table['cell']}"


def test_of_several_methods_each_is_swept(tmp_path: Path) -> None:
    methods = 'cells = ["mingru", "gru"]\n[methods.gru]\nlabel = "GRU"\n'
    plan = read(tmp_path, f"seeds = 1\n{methods}{TASKS}[sweep]\ndecision.context = [5, 20]\n")
    assert [method.name for method in plan.methods] == [
        "mingru+context=5", "mingru+context=20", "gru+context=5", "gru+context=20"
    ]  # fmt: skip
    assert plan.methods[2].label == "GRU, context 5"
    for run in plan.runs:
        table = run.settings["decision"]
        assert run.method == f"{table['cell']}+context={table['context']}"


def test_options_of_a_cell_and_switches(tmp_path: Path) -> None:
    plan = read(tmp_path, f"seeds = 1\n{TASKS}[sweep]\ncell_options.expand = [1, 2]\ncarry = [true, false]\n")
    assert [run.method for run in plan.runs] == [
        f"cell_options.expand={expand}+carry={carry}" for expand in (1, 2) for carry in ("true", "false")
    ]
    found = [(r.settings["decision"]["cell_options"]["expand"], r.settings["train"]["carry"]) for r in plan.runs]
    assert found == [(1, True), (1, False), (2, True), (2, False)]


def test_tables_and_lists_have_names_that_read_well(tmp_path: Path) -> None:
    tables = 'cell_options = [{expand = 1, candidate = "tanh"}, {expand = 2}]\n'
    plan = read(tmp_path, f"seeds = 1\n{TASKS}[sweep]\n{tables}")
    assert [run.method for run in plan.runs] == ["cell_options=expand=1-candidate=tanh", "cell_options=expand=2"]
    assert [method.label for method in plan.methods] == [
        "cell_options expand=1,candidate=tanh", "cell_options expand=2"
    ]  # fmt: skip
    plan = read(tmp_path, f"seeds = 1\n{ONLINE}[sweep]\nnet_arch = [{{pi = [64, 32]}}, {{vf = [8]}}]\n")
    assert [run.method for run in plan.runs] == ["net_arch=pi=64-32", "net_arch=vf=8"]


def test_a_sweep_overrides_all_other_settings(tmp_path: Path) -> None:
    text = f"seeds = 1\n{TASKS}[tasks.hopper.train]\nlearning_rate = 0.5\n[sweep]\nlearning_rate = [1e-3, 3e-3]\n"
    assert [run.settings["train"]["learning_rate"] for run in read(tmp_path, text).runs] == [0.001, 0.003]


@pytest.mark.parametrize("order", [1, -1])
def test_a_value_that_no_environment_takes_skips_its_runs_alone(order: int, tmp_path: Path) -> None:
    values = ["{ sutton_barto_reward = true }", "{ colour = 3 }", "{}"][::order]
    plan = read(tmp_path, f"seeds = 2\n{ONLINE}[sweep]\nenv_kwargs = [{', '.join(values)}]\n")
    found = survey(plan, families(), tmp_path)
    wrong = {run.key for run in plan.runs if run.settings["train"]["env_kwargs"] == {"colour": 3}}
    assert len(wrong) == 2
    assert set(found.skipped) == wrong
    assert all("colour" in reason for reason in found.skipped.values())
    assert {run.key for run in found.to_do} == {run.key for run in plan.runs} - wrong


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("learning_rat = [1e-3]", "grid.toml, task hopper: [sweep]"),
        ("learning_rat = [1e-3]", 'decision has no setting "learning_rat"; did you mean "learning_rate"'),
        ("learning_rate = 1e-3", "learning_rate is a list of values to try, got 0.001"),
        ("learning_rate = []", "learning_rate is a list of values to try"),
        ("learning_rate = [1e-3, 1e-3]", 'two combinations have the name "learning_rate=0.001"'),
        ('learning_rate = ["fast"]', "learning_rate in [sweep]"),
        ("seed = [0, 1]", "seed belongs to the grid"),
        ('data = ["minari:x"]', "data belongs to the grid"),
        ("train.widht = [1]", 'decision has no setting "widht"'),
        ("width = [0]", "width must be at least 1, got 0"),
    ],
)
def test_faulty_sweeps_are_refused(sweep: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[sweep\]|width") as error:
        read(tmp_path, f"{TASKS}[sweep]\n{sweep}\n")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "method  on" not in str(error.value)
