"""Recurrent SAC on tasks without velocities: a table of returns, written and resumed by one command.

    python benchmarks/sac_table.py --out runs/sac_table

Every run of ours is `minrl train sac --config configs/online/sac_TASK.toml` with the flags of its row, every run of a
peer is `sac_peer.py` on the same environments for as many steps. Each has a process and one thread of its own, and
leaves one JSON file; finished runs are skipped, interrupted ones and those of other settings start again. Protocol: the
last policy, most likely action, `--episodes` numbered episodes that no run trains on, mean ± standard error over seeds.
The table is brought up to date after each run, in `benchmarks/sac_table.md` and `.json` (`--table`).
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ppo_table import CONFIGS, FIRST_EPISODE, HERE, MINRL, VERSIONS, called, replace, summary

from minrl.agents.sac_agent import SACOptions
from minrl.online.settings import ReplayConfig
from minrl.system.config import read_toml

# Flags of our rows, and of `sac_peer.py`.
OURS: dict[str, list[str]] = {
    "minGRU": [],
    "GRU": ["--cell", "gru"],
    "LSTM": ["--cell", "lstm"],
    "minGRU, shared": ["--share-trunk"],
    "minGRU, n = 3": ["--n-steps", "3"],
    "minGRU, burn-in 16": ["--row-state", "burn_in", "--burn-in", "16"],
    "minGRU, recomputed": ["--row-state", "recomputed"],
    "minGRU, zero": ["--row-state", "zero"],
}
PEERS = {"SB3 SAC, 4 frames": ["--frames", "4"], "SB3 SAC, 1 frame": ["--frames", "1"]}
METHODS = {**OURS, **PEERS}
TASKS = {"pendulum": 1, "cartpole": 0, "hopper": 0, "half_cheetah": 0}  # decimals of returns
CHOICES = {"cartpole"}  # for which Stable-Baselines3 has no SAC
POMDP = "https://github.com/twni2016/pomdp-baselines/blob"
PUBLISHED = (
    "Published, not run here: pomdp-baselines (Ni et al., arXiv 2110.05038) calls Pendulum without its velocity "
    f"[`Pendulum-P-v0`]({POMDP}/06ded95c944ffc6f7b378162f6b190ce8e49a32d/envs/pomdp/__init__.py); no return on it was "
    "found as a number, nor on its Hopper and HalfCheetah (PyBullet's), whose curves are figures. Its "
    f"[example.ipynb]({POMDP}/1aa90136c9e5276391d7208553a930def1881cb3/example.ipynb) prints a run of recurrent TD3 "
    "(LSTM) with a gradient step for each environment step on `Pendulum-V-v0`, which shows the velocity and hides the "
    "angle: -337.3 after 20,000 steps, -195.1 after 19,000 and -183.5 after 31,000, 10 episodes each."
)


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
        return CONFIGS / f"sac_{self.task}.toml"

    @property
    def result(self) -> Path:
        """Path of its result."""
        return self.folder.with_suffix(".json")


def settings(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all that a run's result depends on, except for the code."""
    config = read_toml(run.config, {"sac": SACOptions, "train": ReplayConfig})
    if run.method in PEERS:  # the only parts that they read
        config = {"train": {name: config["train"][name] for name in ("env", "n_envs", "steps")}}
    return {
        "config": config, "flags": METHODS[run.method], "episodes": arguments.episodes,
        "first_episode": FIRST_EPISODE,
    }  # fmt: skip


def kept(run: Run, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the result of a finished run with these settings."""
    if not run.result.is_file():
        return None
    numbers: dict[str, Any] = json.loads(run.result.read_text(encoding="utf-8"))
    return numbers if numbers["settings"] == settings(run, arguments) else None


def complete(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the result of a run, after executing it if it is missing; CalledProcessError if it failed."""
    numbers = kept(run, arguments)
    if numbers is None:
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        outcome = (peer_outcome if run.method in PEERS else our_outcome)(run, arguments.episodes)
        versions = {name: version(name) for name in VERSIONS}
        numbers = {"task": run.task, "method": run.method, "seed": run.seed, **outcome, "versions": versions}
        numbers["settings"] = settings(run, arguments)
        replace(run.result, json.dumps(numbers, indent=1) + "\n")
    return numbers


def our_outcome(run: Run, episodes: int) -> dict[str, Any]:
    """Train and evaluate with the command line."""
    command = [*MINRL, "train", "sac", "--config", str(run.config), *OURS[run.method], "--threads", "1"]
    called(run, [*command, "--seed", str(run.seed), "--evaluate-every", "0", "--out", str(run.folder)])
    command = [*MINRL, "evaluate", str(run.folder), "--episodes", str(episodes), "--seed", str(FIRST_EPISODE)]
    scores = json.loads(called(run, [*command, "--environments", str(episodes), "--threads", "1", "--json"]))
    done = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    outcome = {name: scores[name] for name in ("mean_return", "returns", "step", "parameters")}
    return {**outcome, "cpu_seconds": done["training_cpu_seconds"]}


def peer_outcome(run: Run, episodes: int) -> dict[str, Any]:
    """Train and evaluate a peer."""
    command = [sys.executable, str(HERE / "sac_peer.py"), "--config", str(run.config), *PEERS[run.method]]
    command += ["--seed", str(run.seed), "--episodes", str(episodes), "--first-episode", str(FIRST_EPISODE)]
    outcome: dict[str, Any] = json.loads(called(run, command))
    return outcome


def table(numbers: list[dict[str, Any]]) -> str:
    """Format as Markdown: a row for each task and method."""
    lines = ["| task | steps | method | return | CPU seconds | parameters |", "|---|---|---|---|---|---|"]
    for task, decimals in TASKS.items():
        for method in METHODS:
            found = [n for n in numbers if (n["task"], n["method"]) == (task, method)]
            if found:
                train = found[0]["settings"]["config"]["train"]
                returns, seconds = (
                    summary([n[name] for n in found], d) for name, d in (("mean_return", decimals), ("cpu_seconds", 0))
                )
                lines.append(
                    f"| `{train['env']}` | {train['steps']:,} | {method} | {returns} | {seconds} | "
                    f"{found[0]['parameters']:,} |"
                )
    return "\n".join(lines) + "\n"


def write(arguments: argparse.Namespace) -> None:
    """Write the table of all finished runs, selected or not, and their numbers."""
    runs = planned(arguments.out, list(TASKS), list(METHODS), 3)
    numbers = [done for run in runs if (done := kept(run, arguments)) is not None]
    if not numbers:
        return
    versions = ", ".join(f"{name} {numbers[0]['versions'][name]}" for name in VERSIONS if name != "sb3-contrib")
    text = (
        f"# Recurrent SAC, {len(numbers)} runs\n\n"
        "Return of the last policy, mean ± standard error over seeds (how many in brackets), beside the CPU seconds of "
        "acting and learning on one thread:\n\n"
        f"{table(numbers)}\n"
        f"{arguments.episodes} numbered episodes a seed with the most likely action, none of them trained on. Settings "
        "are in `configs/online/sac_*.toml`, with the row's flags over them; the peers' in `benchmarks/sac_peer.py`, "
        f"for as many environment steps. All numbers: `sac_table.json`. {versions}.\n\n"
        f"{PUBLISHED}\n\nWritten by `python benchmarks/sac_table.py`, which resumes.\n"
    )
    replace(arguments.table, text)
    replace(arguments.table.with_suffix(".json"), json.dumps(numbers, indent=1) + "\n")


def planned(out: Path, tasks: list[str], methods: list[str], seeds: int) -> list[Run]:
    """List the runs, every first seed before a second."""
    names = {method: "".join(c if c.isalnum() else "_" for c in method) for method in METHODS}
    return [
        Run(task, method, seed, out / task / f"{names[method]}-{seed}")
        for seed in range(seeds)
        for task in tasks
        for method in methods
        if not (task in CHOICES and method in PEERS)
    ]


def main() -> int:
    """Complete all runs; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sac_table"))
    parser.add_argument("--table", type=Path, default=HERE / "sac_table.md")
    parser.add_argument("--tasks", nargs="+", default=["pendulum"], choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=100, help="for each seed")
    arguments = parser.parse_args()
    failed = 0
    for run in planned(arguments.out, arguments.tasks, arguments.methods, arguments.seeds):
        name = f"{run.task:<13} {run.method:<20} seed {run.seed}"
        try:
            done = complete(run, arguments)
        except (subprocess.CalledProcessError, OSError, KeyError, ValueError) as error:
            failed += 1
            print(f"{name}: failed, see {run.folder.with_suffix('.log')} ({error})", file=sys.stderr, flush=True)
            continue
        write(arguments)
        print(f"{name}: {done['mean_return']:9.1f} in {done['cpu_seconds']:6.1f} CPU s", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
