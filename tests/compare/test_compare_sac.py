"""Grids with agents whose trainings have different settings: recurrent PPO and SAC online."""

from pathlib import Path
from typing import Any

import pytest

from minrl.agents.__main__ import main
from minrl.agents.cli.families import families
from minrl.compare.grid.plan import ComparisonPlan, read_plan, write_plan
from minrl.compare.grid.read import read_grid

FAMILIES = families()
GRID = """seeds = 1
[tasks.pole]
env = "minrl/CartPoleNoVel-v1"
low = 0.0
high = 500.0
[online.train]
steps = 48
n_envs = 2
n_epochs = 3
n_steps = 16
batch_size = 16
ent_coef = 0.01
evaluate_every = 48
evaluate_episodes = 1
evaluate_max_steps = 5
[methods.ppo.online.ppo]
width = 8
depth = 1
[methods.sac.online]
agent = "sac"
[methods.sac.online.sac]
width = 8
depth = 1
[methods.sac.online.train]
train_freq = 8
learning_starts = 16
gradient_steps = 1
segment_length = 8
batch_size = 32
"""


def plan_of(text: str, folder: Path) -> ComparisonPlan:
    path = folder / "grid.toml"
    path.write_text(text, encoding="utf-8")
    return read_grid(path, FAMILIES)


def tables(plan: ComparisonPlan) -> dict[str, Any]:
    return {run.method: run.settings for run in plan.runs}


def test_each_agent_takes_its_own_settings(tmp_path: Path) -> None:
    plan = plan_of(GRID, tmp_path)
    found = tables(plan)
    assert [run.agent for run in plan.runs] == ["ppo", "sac"]
    assert (found["ppo"]["train"]["n_steps"], found["ppo"]["train"]["n_epochs"]) == (16, 3)
    sac = found["sac"]["train"]
    # PPO's n_steps and ent_coef are other things than SAC's of that name; environments and length are shared.
    assert (sac["n_steps"], sac["ent_coef"], sac["steps"], sac["n_envs"]) == (1, "auto_0.1", 48, 2)
    assert (sac["batch_size"], sac["train_freq"], sac["exact_resume"]) == (32, 8, True)
    assert "n_epochs" not in sac
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan


def test_layers_are_for_the_agent_that_they_name(tmp_path: Path) -> None:
    text = '[tasks.p]\nenv = "minrl/PendulumNoVel-v1"\n[online]\nagent = "sac"\n[online.train]\nn_steps = 3\n'
    text += '[methods.a]\n[methods.b.online]\nagent = "ppo"\n[methods.c.online]\nconfig = "sac_pendulum"\n'
    found = tables(plan_of(text, tmp_path))
    assert [found[name]["train"]["n_steps"] for name in "abc"] == [3, 128, 3]
    assert found["c"]["train"]["gamma"] == 0.95
    swept = tables(plan_of(text.partition("[methods")[0] + "[sweep]\ntau = [0.01, 0.1]\n", tmp_path))
    assert [settings["train"]["tau"] for settings in swept.values()] == [0.01, 0.1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[methods.sac.online.train]\nn_epochs = 3", 'has no key "n_epochs"'),
        ("[methods.ppo.online.train]\ntau = 0.1", 'has no key "tau"'),
        ("[online.train]\ntau = 0.1", 'has no key "tau"'),
        ("[methods.sac.tasks.p.train]\ntau = 3.0", "tau must lie in"),
    ],
)
def test_settings_of_another_agent_are_one_line(table: str, message: str, tmp_path: Path) -> None:
    text = '[tasks.p]\nenv = "minrl/PendulumNoVel-v1"\n[methods.ppo]\n[methods.sac.online]\nagent = "sac"\n'
    with pytest.raises(ValueError, match=message) as found:
        plan_of(text + table + "\n", tmp_path)
    assert "\n" not in str(found.value)


def test_a_comparison_trains_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run, change a setting of SAC, and run again."""
    plan_of(GRID, tmp_path)
    command = ["compare", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    report = (tmp_path / "out" / "report" / "report.md").read_text(encoding="utf-8")
    assert "sac" in report
    assert main(command) == 0
    plan_of(GRID.replace("train_freq = 8", "train_freq = 4"), tmp_path)
    capsys.readouterr()
    assert main(command) == 2
    assert "train_freq = 8, now 4" in capsys.readouterr().err
