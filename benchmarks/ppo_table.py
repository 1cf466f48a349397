"""Recurrent PPO on tasks that need memory: a table of returns, written and resumed by one command.

    python benchmarks/ppo_table.py --out runs/ppo_table --jobs 2

Every run of ours is a plain `minrl train ppo --config configs/online/TASK.toml --cell CELL`, every run of a peer is
`ppo_peer.py` on the same environments for as many steps. Each has a process and one thread of its own, and leaves one
JSON file; finished runs are skipped, interrupted ones and those of other settings start again. Protocol: the last
policy, most likely action, `--episodes` numbered episodes that no run trains on, mean ± standard error over seeds.
The table is brought up to date after each run, in `benchmarks/ppo_table.md` and `.json` (`--table`).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import ppo_published

from minrl.agents.ppo_agent import PPOOptions
from minrl.online.settings import OnlineConfig
from minrl.system.config import read_toml

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs" / "online"
MINRL = [sys.executable, "-m", "minrl.agents"]
VERSIONS = "minrl", "torch", "gymnasium", "stable-baselines3", "sb3-contrib"
FIRST_EPISODE = 1_000_000  # seed of the first numbered episode
CELLS = {"minGRU": "mingru", "LSTM": "lstm", "minLSTM": "minlstm", "Mamba": "mamba", "Transformer": "transformer"}
PEERS = {"sb3-contrib RecurrentPPO": "recurrent", "SB3 PPO, 4 frames": "frames"}
METHODS = {**CELLS, **PEERS}
# Note below the table until these runs are repeated.
WITHDRAWN = (
    "The peers' runs on Pendulum are withdrawn: they had 16 x 256 steps a rollout where RL Zoo's settings, which "
    "`ppo_peer.py` has now, are 4 x 1024 (its published figure of RecurrentPPO: -217.9 at 100,000 steps). "
)
FEW = {"minGRU": 5, "LSTM": 5}  # seeds of each method
ALL = {method: FEW.get(method, 3) for method in METHODS}


@dataclass(frozen=True)
class Task:
    """Learning task; its config states the environment and the settings."""

    goal: str
    decimals: int
    seeds: dict[str, int] = field(default_factory=lambda: FEW)


TASKS = {
    "cartpole": Task("500", 1, ALL),
    "pendulum": Task("≥ -200", 1, ALL),
    "mountain_car": Task("≥ 91", 1),
    "repeat_first": Task("≥ 0.95", 3),
    "repeat_previous": Task("≥ 0.95", 3, ALL),
    "repeat_previous_32": Task("as far as it goes", 3),
}


@dataclass(frozen=True)
class Run:
    """Training run and its evaluation."""

    task: str
    method: str
    seed: int
    folder: Path

    @property
    def config(self) -> Path:
        """Return the file of the task's settings."""
        return CONFIGS / f"{self.task}.toml"

    @property
    def result(self) -> Path:
        """Path of its result."""
        return self.folder.with_suffix(".json")


def settings(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all that a run's result depends on, except for the code."""
    config = read_toml(run.config, {"ppo": PPOOptions, "train": OnlineConfig})
    return {"config": config, "episodes": arguments.episodes, "first_episode": FIRST_EPISODE}


def kept(run: Run, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the result of a finished run with these settings."""
    if not run.result.is_file():
        return None
    numbers: dict[str, Any] = json.loads(run.result.read_text(encoding="utf-8"))
    then, now = numbers["settings"], settings(run, arguments)
    if run.method in PEERS:  # the only parts of our config that they read
        then, now = (s | {"config": [s["config"]["train"][n] for n in ("env", "n_envs", "steps")]} for s in (then, now))
    return numbers if then == now else None


def complete(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the result of a run, after executing it if it is missing.

    Raises:
        subprocess.CalledProcessError: if it failed; its log is beside its folder.
    """
    numbers = kept(run, arguments)
    if numbers is None:
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        outcome = (peer_outcome if run.method in PEERS else our_outcome)(run, arguments.episodes)
        numbers = {"task": run.task, "method": run.method, "seed": run.seed, **outcome}
        numbers["settings"] = settings(run, arguments)
        replace(run.result, json.dumps(numbers, indent=1) + "\n")
    return numbers


def our_outcome(run: Run, episodes: int) -> dict[str, Any]:
    """Train and evaluate with the command line."""
    command = [*MINRL, "train", "ppo", "--config", str(run.config), "--cell", CELLS[run.method], "--threads", "1"]
    called(run, [*command, "--seed", str(run.seed), "--evaluate-every", "0", "--out", str(run.folder)])
    command = [*MINRL, "evaluate", str(run.folder), "--episodes", str(episodes), "--seed", str(FIRST_EPISODE)]
    scores = json.loads(called(run, [*command, "--environments", str(episodes), "--threads", "1", "--json"]))
    summary = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    outcome = {name: scores[name] for name in ("mean_return", "returns", "step", "parameters")}
    return {**outcome, "cpu_seconds": summary["training_cpu_seconds"], "versions": {n: version(n) for n in VERSIONS}}


def peer_outcome(run: Run, episodes: int) -> dict[str, Any]:
    """Train and evaluate a peer."""
    command = [sys.executable, str(HERE / "ppo_peer.py"), PEERS[run.method], "--config", str(run.config)]
    command += ["--seed", str(run.seed), "--episodes", str(episodes), "--first-episode", str(FIRST_EPISODE)]
    return {**json.loads(called(run, command)), "versions": {name: version(name) for name in VERSIONS}}


def called(run: Run, command: list[str]) -> str:
    """Return the standard output of a program on one thread; its standard error goes to the run's log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with run.folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
    return done.stdout


def table(numbers: list[dict[str, Any]], name: str) -> str:
    """Format as Markdown: a row for each task, a column for each method."""
    has_goal = name == "mean_return"
    lines = [f"| task | {'steps | goal | ' * has_goal}{' | '.join(METHODS)} |"]
    lines.append(f"|---|{'---|' * (len(METHODS) + 2 * has_goal)}")
    for task, known in TASKS.items():
        of_task = [n for n in numbers if n["task"] == task]
        if of_task:
            train = of_task[0]["settings"]["config"]["train"]
            head = [f"`{train['env']}`", f"{train['steps']:,}", known.goal][: 3 if has_goal else 1]
            decimals = known.decimals if has_goal else 0
            cells = [summary([n[name] for n in of_task if n["method"] == m], decimals) for m in METHODS]
            lines.append(f"| {' | '.join([*head, *cells])} |")
    return "\n".join(lines) + "\n"


def summary(values: list[float], decimals: int) -> str:
    """Format mean ± standard error (seeds)."""
    if not values:
        return "-"
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{decimals}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{decimals}f}{error} ({len(values)})"


def report(numbers: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Format the tables with their protocol."""
    versions = ", ".join(f"{name} {numbers[0]['versions'][name]}" for name in VERSIONS)
    return (
        f"# Recurrent PPO, {len(numbers)} runs\n\n"
        "Return of the last policy, mean ± standard error over seeds (how many in brackets):\n\n"
        f"{table(numbers, 'mean_return')}\n"
        "CPU seconds of acting and learning on one thread (what else the machine did at that time shows in them):\n\n"
        f"{table(numbers, 'cpu_seconds')}\n"
        f"{published()}"
        f"{arguments.episodes} numbered episodes a seed with the most likely action, none of them trained on. The runs "
        "of the first five columns differ in their cell alone: a task's settings are in `configs/online/`, the peers' "
        f"in `benchmarks/ppo_peer.py`. {WITHDRAWN}"
        f"All numbers and each run's settings: `ppo_table.json`. {versions}.\n\n"
        "Written by `python benchmarks/ppo_table.py`, which resumes.\n"
    )


def published() -> str:
    """Format the peer's runs under RL Zoo's own settings beside the published returns; empty without runs."""
    if not ppo_published.RESULTS.is_file():
        return ""
    runs = json.loads(ppo_published.RESULTS.read_text(encoding="utf-8"))
    return (
        "The peer under RL Zoo's settings and number of steps, beside RL Zoo's published return, that of one agent "
        "with the standard deviation over its episodes (`python benchmarks/ppo_published.py`):\n\n"
        f"{ppo_published.table(runs)}\n"
    )


def rewrite(arguments: argparse.Namespace) -> None:
    """Write the tables again from the numbers beside them."""
    numbers = json.loads(arguments.table.with_suffix(".json").read_text(encoding="utf-8"))
    replace(arguments.table, report(numbers, arguments))


def write(arguments: argparse.Namespace) -> None:
    """Write the tables of all finished runs, selected or not, and their numbers."""
    runs = planned(arguments.out, TASKS, METHODS, max(ALL.values()))
    numbers = [done for run in runs if (done := kept(run, arguments)) is not None]
    if numbers:
        replace(arguments.table, report(numbers, arguments))
        replace(arguments.table.with_suffix(".json"), json.dumps(numbers, indent=1) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def planned(out: Path, tasks: Iterable[str], methods: Iterable[str], seeds: int) -> list[Run]:
    """List the runs of these tasks, ours before those of peers, and every first seed before a second."""
    grid = [
        Run(task, method, seed, out / task / f"{METHODS[method]}-{seed}")
        for seed in range(seeds)
        for task in tasks
        for method in methods
        if seed < TASKS[task].seeds.get(method, 0)
    ]
    return sorted(grid, key=lambda run: run.method in PEERS)


def main() -> int:
    """Complete all runs; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ppo_table"))
    parser.add_argument("--table", type=Path, default=HERE / "ppo_table.md")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--cells", nargs="+", default=list(METHODS), choices=METHODS, help="cells and peers")
    parser.add_argument("--seeds", type=int, default=5, help="at most, of each task and method")
    parser.add_argument("--episodes", type=int, default=100, help="for each seed")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--report-only", action="store_true", help="write the tables again from their numbers")
    arguments = parser.parse_args()
    if arguments.report_only:
        rewrite(arguments)
        return 0
    failed: list[Run] = []
    lock = Lock()

    def announced(run: Run) -> None:
        name = f"{run.task:<19} {run.method:<25} seed {run.seed}"
        try:
            done = complete(run, arguments)
        except (subprocess.CalledProcessError, OSError, KeyError, ValueError) as error:
            failed.append(run)
            print(f"{name}: failed, see {run.folder.with_suffix('.log')} ({error})", file=sys.stderr, flush=True)
            return
        with lock:
            write(arguments)
            print(f"{name}: {done['mean_return']:9.3f} in {done['cpu_seconds']:6.1f} CPU s", flush=True)

    write(arguments)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(announced, planned(arguments.out, arguments.tasks, arguments.cells, arguments.seeds)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
