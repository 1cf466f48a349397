"""A training step on a machine whose cores are taken by others: the default number of threads against 1 and 2.

    python benchmarks/endurance/busy.py [--load 2] [--rounds 5]

`--load` processes that never wait run beside it, two for the two-core machine that such runs share; the thread counts
take turns, and a figure is the median over the rounds. Nothing is set in the environment, as where a user types
`minrl train`. The exit code is 1 if the default is more than twice as slow as the faster of 1 and 2.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from actions import save

from minrl.agents.cli.bench_decision import make_agent, make_batch, training_step
from minrl.bench.results import Settings
from minrl.runs.threads import use_threads

HERE = Path(__file__).resolve().parent
COUNTS = {"default": 0, "1": 1, "2": 2}
SHAPE = 4, 500  # rows and steps of a batch
SPIN = "import time\nwhile time.sleep(0) is None: pass"


def measure(load: int, rounds: int) -> dict[str, Any]:
    """Return wall and CPU seconds of one step for each thread count, and what the default is."""
    settings = Settings()
    agent, batch = make_agent(settings), make_batch(settings, *SHAPE)
    step, tokens = training_step(agent, batch), batch.mask.numel()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        step()  # compiles
    torch.set_num_threads(os.cpu_count() or 1)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COUNTS}
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(load)]
    try:
        for _ in range(rounds):
            for name, count in COUNTS.items():
                use_threads(count, agent, tokens)
                wall, used = time.perf_counter(), time.process_time()
                step()
                seconds[name].append((time.perf_counter() - wall, time.process_time() - used))
        default = use_threads(0, agent, tokens)
    finally:
        for process in spinning:
            process.kill()
    wall, used = (
        {name: statistics.median(pair[at] for pair in pairs) for name, pairs in seconds.items()} for at in (0, 1)
    )
    machine = {"load": load, "others": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}
    return {**machine, "default": default, "rounds": rounds, "wall": wall, "cpu": used}


def table(found: dict[str, Any]) -> str:
    """Format the result as Markdown."""
    lines = ["# A step on a busy machine", "", "| threads | wall, s | CPU, s |", "|---|---:|---:|"]
    for name in COUNTS:
        label = f"default ({found['default']})" if name == "default" else name
        lines.append(f"| {label} | {found['wall'][name]:.2f} | {found['cpu'][name]:.2f} |")
    note = (
        f"A decision agent's training step, {found['cores']} cores with {found['load']} busy processes beside it (load "
        f"average {found['others']}), median of {found['rounds']} rounds in turn. Written by "
        "`python benchmarks/endurance/busy.py`."
    )
    return "\n".join([*lines, "", note, ""])


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=int, default=2, help="busy processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=HERE / "busy.json")
    arguments = parser.parse_args()
    found = measure(arguments.load, arguments.rounds)
    print(table(found))
    save(arguments.json, json.dumps(found, indent=1) + "\n")
    save(arguments.json.with_suffix(".md"), table(found))
    return int(found["wall"]["default"] > 2 * min(found["wall"]["1"], found["wall"]["2"]))


if __name__ == "__main__":
    sys.exit(main())
