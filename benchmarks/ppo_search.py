"""Search of the settings with which `ppo_speed.py --to-500` trains, on seeds that it does not report.

    python benchmarks/ppo_search.py [--settings 108] [--json benchmarks/ppo_search.json]

Draws settings of a grid in a fixed order and trains each on compiled environments with seeds 10 to 15, until an
evaluation reaches the goal; those whose third seed leaves a median above 1.6 CPU seconds stop there. It resumes from
the file, and prints the settings by their median CPU seconds. A training that misses the goal counts 9 s.
"""

import argparse
import json
import random
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import torch
from ppo_peers import CARTPOLE, NATIVE, Row
from ppo_report import save, table
from ppo_speed import GOAL, TO_500, seconds_to_goal

SEEDS, MOST_STEPS, MISSED_S, SLOW_S = range(10, 16), 80_000, 9.0, 1.6
GRID: dict[str, tuple[float, ...]] = {
    "n_steps": (32, 64, 128),
    "batch_size": (64, 128, 256),
    "n_epochs": (4, 6, 10, 16),
    "learning_rate": (1e-3, 2e-3, 3e-3),
}


def settings() -> list[dict[str, Any]]:
    """List the settings of the grid in the order in which they are tried."""
    every = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    random.Random(0).shuffle(every)
    return every


def seconds(tried: dict[str, Any]) -> list[float]:
    """Measure CPU seconds to the goal, seed by seed."""
    rates = {name: value for name, value in tried.items() if name not in Row._fields}
    found: list[float] = []
    for seed in SEEDS:
        row = Row(CARTPOLE, tried["n_steps"], tried["batch_size"], 64)
        run = seconds_to_goal(NATIVE, seed, row, TO_500 | rates, MOST_STEPS)
        found.append(run["seconds"] if run["reached"] else MISSED_S)
        if len(found) == 3 and statistics.median(found) > SLOW_S:
            break
    return found


def main() -> None:
    """Run what the file lacks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=len(settings()), help="how many of the grid")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = json.loads(arguments.json.read_text(encoding="utf-8"))["settings"] if arguments.json.exists() else []
    seconds_to_goal(NATIVE, 99)  # compiles
    for tried in settings()[len(kept) : arguments.settings]:
        kept.append({**tried, "goal": GOAL, "seconds": seconds(tried)})
        save({"settings": kept}, arguments.json)
    lines = [[*(one[name] for name in GRID), len(one["seconds"]), statistics.median(one["seconds"])] for one in kept]
    table([*GRID, "seeds", "median CPU s"], sorted(lines, key=lambda line: float(line[-1])))


if __name__ == "__main__":
    main()
