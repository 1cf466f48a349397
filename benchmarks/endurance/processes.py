"""A thousand environments, a hundred loaders, four threads, fork and spawn: each compared with one alone.

    python benchmarks/endurance/processes.py [--environments 1000] [--loaders 100] [--kills 20]

Environments: every cell acts for a batch, and for each row alone with the same observations. Loaders: processes load
one data set from an empty cache while the first one, which converts it, and others at random are killed; each that
ends must have the arrays that a loader without a cache has, and the next load leaves one cache and no draft. Threads:
trainings in four threads of one process, each equal to one alone or refused in one line. Starts: a training in a
forked and in a spawned process, after one in the parent. The exit code is 1 if any differs.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from actions import ACTION, OBSERVATION, agent_of, save

from minrl.agent import Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.cells import CELLS
from minrl.data import Episodes, load
from minrl.runs.checkpoint import read
from minrl.training.config import TrainConfig
from minrl.training.offline import train

HERE = Path(__file__).resolve().parent
DATA = "minari:minrl/hopper/medium-replay-v0"
TOLERANCE = 1e-5


@torch.inference_mode()
def environments(count: int, steps: int = 3) -> dict[str, Any]:
    """Return the largest difference between actions for a batch and for each row alone, for each cell."""
    found = {}
    for cell in CELLS:
        agent = agent_of(cell)
        seen, reward = torch.randn(steps, count, OBSERVATION), torch.zeros(count)
        state, together = agent.initial_state(count), torch.empty(steps, count, ACTION)
        starts = torch.rand(steps, count) < 0.2
        starts[0] = True
        for t in range(steps):
            together[t], state = agent.act(Moment(seen[t], reward, starts[t]), state)
        alone = torch.empty_like(together)
        for row in range(count):
            one, state = slice(row, row + 1), agent.initial_state(1)
            for t in range(steps):
                alone[t, one], state = agent.act(Moment(seen[t, one], reward[one], starts[t, one]), state)
        found[cell] = ((together - alone).abs().max() / alone.abs().max()).item()
    return found


def digest(episodes: Episodes) -> str:
    """Return a hash of all arrays of a data set."""
    found = hashlib.sha256()
    for name in ("observations", "actions", "rewards", "offsets", "returns_to_go", "final_observations"):
        found.update(np.ascontiguousarray(getattr(episodes, name)))
    return found.hexdigest()


def loaders(count: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """Start `count` processes that load, kill the first while it converts and `kills` others; compare the rest."""
    draw, wanted = random.Random(seed), digest(load(DATA, cache=False))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINRL_CACHE"] = folder
        children = [_forked(lambda: digest(load(DATA)) == wanted)]
        # The first draft is being filled.
        while not any(Path(folder).iterdir()) and os.waitpid(children[0], os.WNOHANG)[0] == 0:
            time.sleep(0.001)
        children += [_forked(lambda: digest(load(DATA)) == wanted) for _ in range(count - 1)]
        os.kill(children[0], signal.SIGKILL)
        for child in draw.sample(children[1:], kills):
            time.sleep(draw.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        right = digest(load(DATA)) == wanted
        left = sorted(path.name for path in Path(folder).iterdir())
    killed = sum(code == -signal.SIGKILL for code in codes)
    return {"loaders": count, "killed": killed, "equal": codes.count(0), "other": count - killed - codes.count(0),
            "right after": right, "folders left": len(left)}  # fmt: skip


def _forked(work: Any) -> int:
    """Start a forked process that exits with 0 if `work()` is true."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 3
        finally:
            os._exit(code)
    return child


def trained(out: Path, seed: int = 0) -> str:
    """Train a small clone in `out` and return a hash of its weights."""
    config = TrainConfig(data=DATA, steps=20, batch_size=2, length=64, seed=seed, threads=1, evaluate_every=0)
    train(CloneAgent, CloneConfig(width=16, depth=1), config, out)
    found = hashlib.sha256()
    for name, weight in sorted(read(out).weights.items()):
        found.update(name.encode() + weight.numpy().tobytes())
    return found.hexdigest()


def threads(folder: Path, wanted: str) -> dict[str, Any]:
    """Train in four threads of this process at once."""
    found: list[str] = []

    def run(number: int) -> None:
        try:
            found.append("equal" if trained(folder / str(number)) == wanted else "different")
        except ValueError as error:
            found.append("refused" if "\n" not in str(error) else "several lines")

    four = [threading.Thread(target=run, args=[number]) for number in range(4)]
    for thread in four:
        thread.start()
    for thread in four:
        thread.join()
    return {kind: found.count(kind) for kind in sorted(set(found))}


def starts(folder: Path, wanted: str) -> dict[str, Any]:
    """Train in a forked and in a spawned process."""
    found = {}
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            found[method] = "equal" if pool.apply(trained, [folder / method]) == wanted else "different"
    return found


def table(found: dict[str, Any]) -> str:
    """Format the results as Markdown."""
    differences, load_row = found["environments"], found["loaders"]
    worst = max(differences["cells"], key=differences["cells"].get)
    exact = sum(value == 0 for value in differences["cells"].values())
    lines = [
        "# Many at once",
        "",
        "| what | compared with | result |",
        "|---|---|---|",
        f"| {differences['count']:,} environments, {len(differences['cells'])} cells | each alone | {exact} cells "
        f"equal to the bit, the others to {differences['cells'][worst]:.0e} of the largest action (`{worst}`) |",
        f"| {load_row['loaders']} loaders of an empty cache, {load_row['killed']} killed, the first while it converts "
        f"| a loader without a cache | {load_row['equal']} equal, {load_row['other']} other; "
        f"{load_row['folders left']} folder in the cache after the next load |",
        f"| trainings in four threads of one process | one alone | {_counts(found['threads'])} |",
        f"| a training in a forked and in a spawned process | the parent's | {_counts(found['starts'])} |",
        "",
        f"torch {torch.__version__}. Written by `python benchmarks/endurance/processes.py`.",
        "",
    ]
    return "\n".join(lines)


def _counts(found: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in found.items())


def is_right(found: dict[str, Any]) -> bool:
    """Return True if nothing differs."""
    of_loaders = found["loaders"]
    return (
        max(found["environments"]["cells"].values()) <= TOLERANCE
        and not of_loaders["other"]
        and of_loaders["right after"]
        and of_loaders["folders left"] == 1
        and set(found["threads"]) <= {"equal", "refused"}
        and "equal" in found["threads"]
        and set(found["starts"].values()) == {"equal"}
    )


def main() -> int:
    """Measure all and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=int, default=1000)
    parser.add_argument("--loaders", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20, help="loaders to kill besides the first")
    parser.add_argument("--json", type=Path, default=HERE / "processes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"loaders": loaders(arguments.loaders, arguments.kills)}
    with tempfile.TemporaryDirectory() as folder:
        wanted = trained(Path(folder) / "alone")
        found["threads"] = threads(Path(folder), wanted)
        found["starts"] = starts(Path(folder), wanted)
    differences = environments(arguments.environments)
    found["environments"] = {"count": arguments.environments, "cells": differences}
    print(table(found))
    save(arguments.json, json.dumps(found, indent=1) + "\n")
    save(arguments.json.with_suffix(".md"), table(found))
    return int(not is_right(found))


if __name__ == "__main__":
    sys.exit(main())
