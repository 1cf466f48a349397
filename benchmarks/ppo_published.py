"""Peers of recurrent PPO under RL Zoo's own settings and number of steps, beside RL Zoo's published returns.

    python benchmarks/ppo_published.py [--out runs/ppo_published] [--seeds 3]

Each run is `ppo_peer.py recurrent` for the published number of steps, whose settings are RL Zoo's. Finished runs are
kept; their results are written to `ppo_published.json`, from which `ppo_table.py` prints the table.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from minrl.system.files import replacing

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "ppo_published.json"
VERSIONS = "torch", "gymnasium", "stable-baselines3", "sb3-contrib"
# Task, steps, and published mean and standard deviation of the return over episodes: RL Zoo's benchmark.md
# (https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md), one agent each.
PUBLISHED: dict[str, tuple[int, float, float]] = {"pendulum": (100_000, -217.933, 140.094)}


def complete(task: str, seed: int, out: Path) -> dict[str, Any]:
    """Return the result of a run, after executing it if it is missing."""
    result = out / f"{task}-{seed}.json"
    if not result.is_file():
        command = [sys.executable, str(HERE / "ppo_peer.py"), "recurrent", "--seed", str(seed)]
        command += ["--config", str(HERE.parent / f"configs/online/{task}.toml"), "--steps", str(PUBLISHED[task][0])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        with replacing(result) as temporary:
            temporary.write_text(done.stdout, encoding="utf-8")
    numbers: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return {"task": task, "seed": seed, **numbers, "versions": {name: version(name) for name in VERSIONS}}


def table(runs: list[dict[str, Any]]) -> str:
    """Format as Markdown: ours of the peer, and what is published of it."""
    lines = [
        "| task | steps | sb3-contrib RecurrentPPO, run here | of each seed | published |",
        "|---|---|---|---|---|",
    ]
    for task, (steps, mean, deviation) in PUBLISHED.items():
        means = [run["mean_return"] for run in runs if run["task"] == task]
        if means:
            error = f" ± {np.std(means, ddof=1) / np.sqrt(len(means)):.1f}" if len(means) > 1 else ""
            each = ", ".join(f"{value:.1f}" for value in means)
            ours = f"{np.mean(means):.1f}{error} ({len(means)})"
            lines.append(f"| {task} | {steps:,} | {ours} | {each} | {mean:.1f}, episodes ± {deviation:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Complete all runs and write their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ppo_published"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(arguments.seeds):
        for task in PUBLISHED:
            runs.append(complete(task, seed, arguments.out))
            with replacing(RESULTS) as temporary:
                temporary.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
