"""A million actions of one agent of each cell: latency, memory, and how far float32 drifts from float64.

    python benchmarks/endurance/actions.py [--cells aaren s5] [--batches 1 64] [--actions 1000000]

One episode without an end, observations drawn from a normal distribution, a clone agent of one block (width 64, no
convolution or MLP, so that the cell alone carries a state). Latencies are CPU times of the thread, which other
programs disturb less. Errors compare the actions with those that the float64 copy of the agent predicts by its
parallel scan over the same observations in pieces, over the largest action. Rows of the JSON file with as many actions
are kept; `--again` measures them anew.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from minrl.agent import Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.cells import CELLS
from minrl.data.environment import EnvironmentInfo
from minrl.data.task import Task
from minrl.system.files import replacing

HERE = Path(__file__).resolve().parent
OBSERVATION, ACTION, WIDTH = 11, 3, 64
PIECE = 2_500  # calls between two comparisons
BOUND = 1e-4  # the exit code is 1 if an error exceeds it


def agent_of(cell: str) -> CloneAgent:
    """Build an agent whose actions are a linear map of its cell's outputs."""
    torch.manual_seed(0)
    config = CloneConfig(width=WIDTH, depth=1, conv=0, mlp=0, cell=cell)
    spaces = Box(-np.inf, np.inf, (OBSERVATION,)), Box(-100, 100, (ACTION,))
    task = Task.in_environment(EnvironmentInfo(id="none"), *spaces)
    return CloneAgent(config, task).eval()


def wide(agent: CloneAgent) -> CloneAgent:
    """Return a float64 copy, which acts in its own precision."""
    return copy.deepcopy(agent).double()


def predicted(agent: CloneAgent, observations: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions (B, T, A) of the parallel scan over observations (B, T, O), and the memory after them."""
    features, memory = agent.backbone.scan(agent.embed(observations, observations[..., :ACTION]), memory, None)
    return agent.head.act(features), memory


def resident() -> float:
    """Return the memory that the process occupies, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@torch.inference_mode()
def measure(cell: str, batch: int, actions: int) -> dict[str, Any]:
    """Act `actions` times in `batch` environments at once, and compare all actions."""
    agent = agent_of(cell)
    reference, calls = wide(agent), max(PIECE, actions // batch)
    state, memory = agent.initial_state(batch), reference.backbone.initial_state(batch)
    generator = torch.Generator().manual_seed(1)
    reward, start = torch.zeros(batch), torch.ones(batch, dtype=torch.bool)
    nanoseconds = np.full(calls, -1, np.int64)  # written, so that its pages are there from the start
    largest, errors, sizes = 0.0, [], []
    for begin in range(0, calls, PIECE):
        count = min(PIECE, calls - begin)
        seen = torch.randn(count, batch, OBSERVATION, generator=generator)
        taken = torch.empty(count, batch, ACTION)
        for at in range(count):
            moment = Moment(observation=seen[at], reward=reward, episode_start=start)
            before = time.thread_time_ns()
            action, state = agent.act(moment, state)
            nanoseconds[begin + at] = time.thread_time_ns() - before
            taken[at] = action
            start = torch.zeros(batch, dtype=torch.bool)
        # Some rows at a time: a whole piece of 64 in float64 would be the peak of the memory that is measured.
        for rows in range(0, batch, 8):
            few = slice(rows, rows + 8)
            wanted, memory[few] = predicted(reference, seen[:, few].transpose(0, 1).double(), memory[few])
            largest = max(largest, wanted.abs().max().item())
            errors.append((begin, (taken[:, few].transpose(0, 1) - wanted).abs().max().item()))
        sizes.append(resident())
    late = calls * 9 // 10
    half, full, rare = (np.percentile(nanoseconds[calls // 100 :], (50, 99, 99.9)) / 1e3).round(1).tolist()
    return {
        "calls": calls,
        "actions": calls * batch,
        "p50": half,
        "p99": full,
        "p99.9": rare,
        "first": max(error for begin, error in errors if begin < max(PIECE, calls // 10)) / largest,
        "last": max(error for begin, error in errors if begin >= late - PIECE) / largest,
        "most": max(error for _, error in errors) / largest,
        "megabytes": round(sizes[0]),
        # Of the peaks of both halves, as the reference's float64 scans move the size of the process up and down, by up
        # to 41 MB for 64 environments. Without them, S5's calls leave it equal to the page from call 7,500 to 30,000,
        # and those of Mamba in 64 environments at 270 to 272 MB from call 2,500 to 15,000.
        "growth": round(max(sizes[len(sizes) // 2 :]) - max(sizes[: max(1, len(sizes) // 2)]), 1),
    }


def table(rows: dict[str, Any]) -> str:
    """Format the results as Markdown."""
    lines = [
        "# A million actions",
        "",
        "| cell | B | calls | p50, µs | p99, µs | p99.9, µs | memory, MB | growth, MB | error, first tenth | last |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    order = list(CELLS)
    for key in sorted(rows, key=lambda key: (int(key.split()[1]), order.index(key.split()[0]))):
        (cell, batch), row = key.split(), rows[key]
        numbers = [f"{row['calls']:,}", *(f"{row[name]:.0f}" for name in ("p50", "p99", "p99.9", "megabytes"))]
        errors = [f"{row['growth']:.1f}", f"{row['first']:.1e}", f"{row['last']:.1e}"]
        lines.append(f"| `{cell}` | {batch} | {' | '.join([*numbers, *errors])} |")
    lines += [
        "",
        "One call of `act` for B environments, in one episode without an end: CPU time of the thread, one thread, "
        f"torch {torch.__version__}; memory of the process after the first {PIECE:,} calls, and its largest in the "
        "second half of the calls less that in the first. Errors are the largest differences from the actions of a "
        "float64 copy, which scans in parallel, over the largest action. Written by "
        "`python benchmarks/endurance/actions.py`.",
        "",
    ]
    return "\n".join(lines)


def save(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> int:
    """Measure what is not in the file yet, and write file and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--actions", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, default=HERE / "actions.json")
    parser.add_argument("--again", action="store_true", help="measure rows that the file has, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path: Path = arguments.json
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for batch in arguments.batches:
        for cell in arguments.cells:
            done = rows.get(f"{cell} {batch}", {}).get("actions", 0)
            if done >= arguments.actions and not arguments.again:
                continue
            rows[f"{cell} {batch}"] = measure(cell, batch, arguments.actions)
            print(cell, batch, rows[f"{cell} {batch}"], flush=True)
            save(path, json.dumps(rows, indent=1) + "\n")
            save(path.with_suffix(".md"), table(rows))
    return int(any(row["most"] > BOUND for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
