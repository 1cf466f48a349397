"""Runs of recurrent PPO that take a second, and readers of their folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from minrl.agents.__main__ import main
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT
from minrl.runs.log import TIMESTEPS, read_log

# A rollout is 2 * 16 steps without filler steps, which CartPole's own vector environment has; checkpoints fall between
# two rows of the log and between two evaluations.
TINY: dict[str, Any] = {
    "env": "CartPole-v1",
    "width": 8,
    "depth": 1,
    "n_envs": 2,
    "vectorization": "sync",
    "n_steps": 16,
    "batch_size": 16,
    "n_epochs": 2,
    "learning_rate": 0.01,
    "decay": "linear",
    "steps": 320,
    "log_every": 2,
    "checkpoint_every": 96,
    "evaluate_every": 64,
    "evaluate_episodes": 3,
    "threads": 1,
}


def words(out: Path, **settings: Any) -> list[str]:
    flags = ["train", "ppo", "--out", str(out)]
    for name, value in (TINY | settings).items():
        dashed = name.replace("_", "-")
        flags += (
            [f"--{dashed}" if value else f"--no-{dashed}"] if isinstance(value, bool) else [f"--{dashed}", str(value)]
        )
    return flags


def whole(out: Path, **settings: Any) -> None:
    assert main(words(out, **settings)) == 0


def steps_of(out: Path, name: str = TIMESTEPS) -> list[int]:
    """List the steps of the rows that hold `name`."""
    return [int(row[TIMESTEPS]) for row in read_log(out, TIMESTEPS) if name in row]


def weights(out: Path, file: str = LAST_CHECKPOINT) -> dict[str, torch.Tensor]:
    return checkpoint.read(out / file).weights


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def numbers(out: Path) -> list[dict[str, float]]:
    """Return the rows of the log without times."""
    rows = read_log(out, TIMESTEPS)
    return [{k: v for k, v in row.items() if k == TIMESTEPS or not k.startswith("time/")} for row in rows]


@contextmanager
def full_from(step: int) -> Iterator[None]:
    """Refuse to save checkpoints of `step` and later ones."""
    save = checkpoint.save

    def full(path: Path, *values: Any, **options: Any) -> None:
        if options["step"] >= step:
            raise OSError(28, "No space left on device", str(path))
        save(path, *values, **options)

    with mock.patch.object(checkpoint, "save", full):
        yield
