"""Distillation against learning by reward, on tasks without velocities: a table, written and resumed by one command.

    python benchmarks/distill.py --out runs/distill

A teacher without a memory (Stable-Baselines3's PPO with RL Zoo's settings, or `--teacher TASK=FILE.zip`) learns the
task with its velocities. A minGRU student that does not see them learns from it (`minrl train distill`), and recurrent
PPO learns the same task by reward (`minrl train ppo`), each with the shipped settings of the task and three seeds.
During training 50 numbered episodes are played every 2,000 steps (PPO: 10,000); the table has the first step at which
their mean return is within 5 % of the teacher's on the same episodes, and the return of the last policy over 100 more.
Each run has a process and one thread, and leaves one JSON file; finished runs are skipped. The table is brought up to
date after each run, in `benchmarks/distill.md` and `.json` (`--table`).
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ppo_peer import CARTPOLE, PENDULUM
from ppo_table import FIRST_EPISODE, HERE, MINRL, VERSIONS, called, replace, summary
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

CLOSE = 0.05  # of the teacher's return
WATCHED, FINAL = 50, 100  # episodes
EVERY = {"distill": 2_000, "ppo": 10_000}
NAMES = {"distill": "distilled minGRU", "ppo": "recurrent PPO, minGRU"}
TEACHER_STEPS = 100_000


@dataclass(frozen=True)
class Task:
    """Task without velocities, the one with them, and the settings of its teacher."""

    env: str
    full: str
    teacher: dict[str, Any]


TASKS = {
    "cartpole": Task("minrl/CartPoleNoVel-v1", "CartPole-v1", {"n_envs": 8, **CARTPOLE}),
    "pendulum": Task("minrl/PendulumNoVel-v1", "Pendulum-v1", PENDULUM),
}


@dataclass(frozen=True)
class Run:
    """Training run in a folder, beside which its result and its log lie."""

    task: str
    method: str
    seed: int
    folder: Path


def teacher_of(task: str, arguments: argparse.Namespace) -> Path:
    """Return the .zip of a task's teacher, trained where it is missing."""
    if task in arguments.teachers:
        return arguments.teachers[task]  # type: ignore[no-any-return]
    file: Path = arguments.out / task / "teacher.zip"
    if not file.exists():
        settings = dict(TASKS[task].teacher)
        environments = make_vec_env(TASKS[task].full, settings.pop("n_envs"), seed=0)
        draft = file.with_suffix(".draft.zip")
        PPO("MlpPolicy", environments, seed=0, device="cpu", **settings).learn(TEACHER_STEPS).save(draft)
        draft.replace(file)
    return file


def evaluated(run: Run, path: Path, env: list[str], episodes: int, first: int) -> float:
    """Return the mean return of numbered episodes."""
    command = [*MINRL, "evaluate", str(path), *env, "--episodes", str(episodes), "--seed", str(first)]
    found = json.loads(called(run, [*command, "--environments", str(episodes), "--threads", "1", "--json"]))
    return float(found["mean_return"])


def complete(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the result of a run, after executing it if it is missing; CalledProcessError if it failed."""
    result = run.folder.with_suffix(".json")
    if result.is_file():
        kept: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return kept
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    task, teacher = TASKS[run.task], teacher_of(run.task, arguments)
    command = [*MINRL, "train", run.method, "--env", task.env, "--seed", str(run.seed), "--threads", "1"]
    command += [
        "--evaluate-every",
        str(EVERY[run.method]),
        "--evaluate-episodes",
        str(WATCHED),
        "--out",
        str(run.folder),
    ]
    if not (run.folder / "summary.json").exists():
        shutil.rmtree(run.folder, ignore_errors=True)
        called(run, [*command, *(["--teacher", str(teacher)] if run.method == "distill" else [])])
    full = ["--env", task.full]
    with (run.folder / "progress.csv").open(encoding="utf-8") as file:
        rows = [(int(row["time/total_timesteps"]), row["eval/mean_reward"]) for row in csv.DictReader(file)]
    done = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    numbers = {
        "task": run.task, "method": run.method, "seed": run.seed,
        "mean_return": evaluated(run, run.folder, [], FINAL, FIRST_EPISODE),
        "teacher": evaluated(run, teacher, full, FINAL, FIRST_EPISODE),
        "teacher_watched": evaluated(run, teacher, full, WATCHED, run.seed * WATCHED),
        "curve": [(step, float(value)) for step, value in rows if value],
        "teacher_of": f"`{teacher.name}`" if run.task in arguments.teachers else "PPO with RL Zoo's settings",
        "cpu_seconds": done["training_cpu_seconds"],
        "versions": {name: version(name) for name in VERSIONS},
    }  # fmt: skip
    replace(result, json.dumps(numbers, indent=1) + "\n")
    return numbers


def steps_to_teacher(numbers: dict[str, Any]) -> int | None:
    """Return the first step of the curve within 5 % of the teacher's return on the same episodes; None for no step."""
    least = numbers["teacher_watched"] - CLOSE * abs(numbers["teacher_watched"])
    return next((step for step, value in numbers["curve"] if value >= least), None)


def table(numbers: list[dict[str, Any]]) -> str:
    """Format as Markdown: a row for each task and method."""
    lines = [
        "| task | method | teacher's return | return | steps to within 5 % of the teacher | all steps | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for method in NAMES:
            found = [n for n in numbers if (n["task"], n["method"]) == (task, method)]
            if found:
                steps = [steps_to_teacher(n) for n in found]
                shown = ", ".join("not reached" if step is None else f"{step:,}" for step in steps)
                lines.append(
                    f"| `{TASKS[task].env}` | {NAMES[method]} | {found[0]['teacher']:.1f} | "
                    f"{summary([n['mean_return'] for n in found], 1)} | {shown} | {found[0]['curve'][-1][0]:,} | "
                    f"{summary([n['cpu_seconds'] for n in found], 0)} |"
                )
    return "\n".join(lines) + "\n"


def write(arguments: argparse.Namespace) -> None:
    """Write the table of all finished runs, and their numbers."""
    results = [run.folder.with_suffix(".json") for run in planned(arguments.out, list(TASKS), list(NAMES), 3)]
    numbers = [json.loads(file.read_text(encoding="utf-8")) for file in results if file.is_file()]
    if not numbers:
        return
    taught = ", ".join(f"{task}: {about}" for task, about in {n["task"]: n["teacher_of"] for n in numbers}.items())
    versions = ", ".join(f"{name} {numbers[0]['versions'][name]}" for name in VERSIONS if name != "sb3-contrib")
    text = (
        f"# Distillation, {len(numbers)} runs\n\n"
        "A teacher without a memory sees velocities, the students do not. Return of the last policy over 100 numbered "
        "episodes, mean ± standard error over seeds (how many in brackets); the first step at which 50 numbered "
        f"episodes, played every {EVERY['distill']:,} steps (PPO: {EVERY['ppo']:,}), come within 5 % of the teacher's "
        "return on the same episodes, for each seed:\n\n"
        f"{table(numbers)}\n"
        f"Teachers: {taught}. Their own {TEACHER_STEPS:,} steps with velocities are left out; one teacher serves any "
        "number of students. Settings: `configs/online/`. All numbers: `distill.json`. "
        f"{versions}.\n\nWritten by `python benchmarks/distill.py`, which resumes.\n"
    )
    replace(arguments.table, text)
    replace(arguments.table.with_suffix(".json"), json.dumps(numbers, indent=1) + "\n")


def planned(out: Path, tasks: list[str], methods: list[str], seeds: int) -> list[Run]:
    """List the runs, students before PPO."""
    return [
        Run(task, method, seed, out / task / f"{method}-{seed}")
        for method in methods
        for seed in range(seeds)
        for task in tasks
    ]


def main() -> int:
    """Complete all runs; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/distill"))
    parser.add_argument("--table", type=Path, default=HERE / "distill.md")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher", nargs="+", default=[], metavar="TASK=FILE.zip", help="teachers of your own")
    arguments = parser.parse_args()
    arguments.teachers = {name: Path(file) for name, _, file in (text.partition("=") for text in arguments.teacher)}
    torch.set_num_threads(1)
    failed = 0
    for run in planned(arguments.out, arguments.tasks, arguments.methods, arguments.seeds):
        name = f"{run.task:<9} {run.method:<8} seed {run.seed}"
        try:
            done = complete(run, arguments)
        except (subprocess.CalledProcessError, OSError, KeyError, ValueError) as error:
            failed += 1
            print(f"{name}: failed, see {run.folder.with_suffix('.log')} ({error})", file=sys.stderr, flush=True)
            continue
        write(arguments)
        print(
            f"{name}: {done['mean_return']:7.1f}, teacher {done['teacher']:.1f}, at {steps_to_teacher(done)}",
            flush=True,
        )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
