"""Loading a million steps: the first time, from the cache, and Minari's own reading into the same flat arrays.

Prints seconds and ratios of one run: `python benchmarks/data_loading.py [--steps N] [--json]`.
Shapes: N steps, E episodes; the set has Hopper's widths (observations 11, actions 3).
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from gymnasium import spaces

from minrl.data import load
from minrl.data.space_text import to_json

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (11,), np.float64)
ACTIONS = spaces.Box(-1, 1, (3,), np.float32)


def write_set(folder: Path, steps: int, length: int) -> None:
    """Write a set in Minari's own layout, episodes of `length` steps."""
    data = folder / "data"
    data.mkdir(parents=True)
    random = np.random.default_rng(0)
    episodes = -(-steps // length)
    with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
        for index in range(episodes):
            ended = np.arange(length) == length - 1
            fields = {
                "observations": random.standard_normal((length + 1, 11)),
                "actions": random.uniform(-1, 1, (length, 3)).astype(np.float32),
                "rewards": random.standard_normal(length),
                "terminations": np.zeros(length, dtype=np.bool_),
                "truncations": ended,
            }
            group = file.create_group(f"episode_{index}")
            group.attrs.update({"id": index, "total_steps": length})
            for name, values in fields.items():
                group.create_dataset(name, data=values, chunks=True, maxshape=(None, *values.shape[1:]))
    metadata = {
        "dataset_id": folder.name,
        "data_format": "hdf5",
        "total_episodes": episodes,
        "total_steps": episodes * length,
        "observation_space": to_json(OBSERVATIONS),
        "action_space": to_json(ACTIONS),
        "minari_version": minari.__version__,
    }
    (data / "metadata.json").write_text(json.dumps(metadata))


def with_minari(name: str) -> dict[str, Any]:
    """Read the same flat arrays by Minari's iterator and `np.concatenate`."""
    episodes = list(minari.load_dataset(name))
    return {
        "observations": np.concatenate([e.observations[:-1] for e in episodes]).astype(np.float32),
        "actions": np.concatenate([e.actions for e in episodes]).astype(np.float32),
        "rewards": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
    }


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return wall seconds and result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def measure(length: int, steps: int) -> dict[str, float]:
    """Measure seconds of each reader for episodes of one length; all three must give equal arrays."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        os.environ["MINRL_CACHE"] = str(Path(folder) / ".cache")
        name = f"length{length}-v0"
        write_set(Path(folder) / name, steps, length)
        theirs, arrays = timed(lambda: with_minari(name))
        first, episodes = timed(lambda: load(f"minari:{name}"))
        again, cached = timed(lambda: load(f"minari:{name}"))
        for field, values in arrays.items():
            if not np.array_equal(getattr(episodes, field), values):
                raise SystemExit(f"{field} differ from Minari's")
        del episodes, cached
    return {"steps": steps, "length": length, "first": first, "again": again, "minari": theirs}


def main() -> None:
    """Measure long and short episodes and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of the set (default: a million)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    load("minari:minrl/hopper/medium-replay-v0", cache=False)  # imports are not measured
    rows = [measure(length, options.steps) for length in (1000, 150)]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'episode':>8} {'first, s':>9} {'again, s':>9} {'Minari, s':>10} {'first / Minari':>15}")
    for row in rows:
        ratio = row["first"] / row["minari"]
        print(f"{row['length']:8d} {row['first']:9.2f} {row['again']:9.4f} {row['minari']:10.2f} {ratio:15.2f}")


if __name__ == "__main__":
    main()
