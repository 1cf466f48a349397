"""Readers that are called without a command around them: thousands of their mutants take seconds."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from formats import CHECKPOINT, STEPS, Reader, _run
from zip_formats import STATISTICS, ZIP, act, make_policy

from minrl.data import cache
from minrl.play import Player
from minrl.runs import checkpoint, dashboard
from minrl.runs.folder import CONFIG, PROGRESS, SUMMARY
from minrl.runs.log import read_log
from minrl.runs.side_files import read_summary, read_targets

_SIDE_FILES = (CONFIG, PROGRESS, SUMMARY, "targets.json")


def _d4rl(folder: Path) -> None:
    draw, rows = np.random.default_rng(0), np.arange(STEPS)
    with h5py.File(folder / "hopper_medium-v2.hdf5", "w") as file:
        file["observations"], file["actions"] = draw.normal(size=(STEPS, 11)), draw.uniform(-1, 1, (STEPS, 3))
        file["rewards"], file["terminals"], file["timeouts"] = draw.normal(size=STEPS), rows % 8 == 7, rows % 12 == 11


def _info(folder: Path) -> list[str]:
    os.environ["D4RL_DATASET_DIR"] = str(folder)
    return ["data", "info", "d4rl:hopper-medium-v2"]


def _act(folder: Path) -> None:
    """Load a checkpoint and act once."""
    agent: Any = checkpoint.load(folder / "run")
    observation = np.zeros((1, *agent.task.observation_space.shape), np.float32)
    Player(agent, 1).act(observation, np.zeros(1), np.array([True]))


def _cached(folder: Path) -> None:
    def convert(allocate: Any) -> dict[str, Any]:
        arrays = {}
        for name in cache._NAMES:
            arrays[name] = allocate(name, (STEPS, 2), np.float32)
            arrays[name][:] = np.random.default_rng(0).normal(size=(STEPS, 2))
        return arrays

    cache.cached("", convert, folder=folder)


def _read_cache(folder: Path) -> None:
    """Read a cache; None stands for one that is damaged and converted anew."""
    if cache._read(folder) is None:
        raise ValueError("the cache is damaged")


def _read_side_files(folder: Path) -> None:
    run = folder / "run"
    read_log(run), dashboard._columns(run), dashboard._settings(run)
    read_summary(run), read_targets(run)


CALLED: dict[str, Reader] = {
    "D4RL": Reader(_d4rl, lambda f: sorted(f.glob("*.hdf5")), _info),
    "weights": Reader(_run, lambda f: [f / "run" / name for name in CHECKPOINT], read=_act),
    "side files": Reader(
        _run, lambda f: [f / "run" / n for n in _SIDE_FILES if (f / "run" / n).exists()], read=_read_side_files
    ),
    "policy's zip": Reader(make_policy, lambda f: [f / ZIP], read=act),
    "VecNormalize": Reader(make_policy, lambda f: [f / STATISTICS], read=act),
    "cache": Reader(_cached, lambda f: sorted(f.iterdir()), read=_read_cache),
}
