"""Comparison folders with real runs of a few steps, and copies of them with chosen scores."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minrl.agents.__main__ import main
from minrl.compare.grid.plan import ComparedTask, ComparisonPlan, Method, PlannedRun, write_plan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOPPER = ComparedTask("hopper", "offline", "minari:minrl/hopper/medium-replay-v0", "Hopper", {"DT": 85.6})
CARTPOLE = ComparedTask("cartpole", "online", "minrl/CartPoleNoVel-v1", "CartPole", low=0.0, high=500.0)
METHODS = (Method("mingru", "minGRU"), Method("gru", "GRU"))
_SMALL = ["--width", "8", "--depth", "1", "--evaluate-episodes", "2", "--threads", "1"]
_OFFLINE = ["--steps", "6", "--batch-size", "2", "--length", "20", "--evaluate-every", "2", "--log-every", "2"]
_ONLINE = ["--steps", "96", "--n-envs", "2", "--n-steps", "16", "--batch-size", "32", "--evaluate-every", "32"]


def train_all(folder: Path, seeds: Sequence[int]) -> None:
    """Train both methods on both tasks by `minrl train`, and write the grid."""
    for seed in seeds:
        for method in METHODS:
            words = ["--cell", method.name, "--seed", str(seed), *_SMALL]
            out = folder / "runs" / HOPPER.name / method.name / f"seed_{seed}"
            assert main(["train", "decision", "--data", HOPPER.source, "--out", str(out), *_OFFLINE, *words]) == 0
            out = folder / "runs" / CARTPOLE.name / method.name / f"seed_{seed}"
            assert main(["train", "ppo", "--env", CARTPOLE.source, "--out", str(out), *_ONLINE, *words]) == 0
    write_grid(folder, seeds)


def write_grid(
    folder: Path,
    seeds: Sequence[int],
    tasks: Sequence[ComparedTask] = (HOPPER, CARTPOLE),
    methods: Sequence[Method] = METHODS,
) -> None:
    """Write the plan of these runs, with the settings of those that exist or of the first of their task."""
    runs = [
        PlannedRun(task.name, method.name, seed, task.family, *_settings(folder, task.name, method.name, seed))
        for seed in seeds
        for task in tasks
        for method in methods
    ]
    sources = {"DT": "the paper of the Decision Transformer"}
    write_plan(ComparisonPlan("A comparison", tuple(tasks), tuple(methods), tuple(seeds), tuple(runs), sources), folder)


def copy_run(source: Path, target: Path, score: float) -> None:
    """Copy a run with another score of its last checkpoint: the return, and the normalised score."""
    if source != target:
        shutil.copytree(source, target, dirs_exist_ok=True)
    change_summary(target, evaluation={"mean_return": score})
    summary = json.loads((target / "summary.json").read_text())
    if summary["evaluation"]["normalized_score"] is not None:
        change_summary(target, evaluation={"normalized_score": score})


def change_summary(run: Path, evaluation: dict[str, Any] | None = None, **values: Any) -> None:
    """Change values in a run's summary."""
    summary = json.loads((run / "summary.json").read_text())
    summary |= values
    summary["evaluation"] |= evaluation or {}
    summary.pop("crc32", None)
    (run / "summary.json").write_text(json.dumps(summary))


def _settings(folder: Path, task: str, method: str, seed: int) -> tuple[str, dict[str, Any]]:
    runs = folder / "runs"
    places = [runs / task / method, runs / task, runs]
    config = next(file for place in places for file in sorted(place.rglob("config.toml")))
    tables = tomllib.loads(config.read_text())
    agent = next(name for name in tables if name != "train")
    return agent, {agent: tables[agent], "train": tables["train"] | {"seed": seed}}
