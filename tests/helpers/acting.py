"""Record an agent acting in a vector environment as a batch.

Shapes: B environments, T time, O flat observation width, A flat action width.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import flatten
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from worlds import Drift

from minrl.agent import Agent, Batch
from minrl.play import Player
from minrl.scan import without_fused_kernels

WAYS = list(AutoresetMode)


@pytest.fixture
def in_torch() -> Iterator[None]:
    """Run torch's operations: kernels would be compiled for the float64 of these tests alone."""
    with without_fused_kernels():
        yield


def variants_and_ways(variants: Iterable[str], fullest: str) -> list[tuple[str, AutoresetMode]]:
    """Pair every variant with one way to begin episodes anew, and the fullest with all."""
    return [*((name, WAYS[0]) for name in variants), *((fullest, way) for way in WAYS[1:])]


class Recorder:
    """Observations, actions and rewards of one environment of a vector, row by row."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, Any, float, bool]] = []  # observation, flat action, return so far, start

    def batch(self, target: float) -> Batch:
        """Return the recorded steps as one row; the return-to-go is the target minus the rewards so far."""
        observations, actions, earned, starts = (np.array(column) for column in zip(*self.rows, strict=True))
        before = np.concatenate([np.zeros_like(actions[:1]), actions[:-1]])
        before[starts] = 0
        opening = np.flatnonzero(starts)
        time = np.arange(len(starts)) - opening[np.cumsum(starts) - 1]
        arrays = {
            "observations": observations,
            "actions": actions.astype(np.float64),
            "previous_actions": before.astype(np.float64),
            "returns_to_go": target - earned,
            "time_steps": time,
            "reset": starts,
            "mask": np.ones(len(starts), dtype=np.bool_),
        }
        return Batch.from_numpy({name: values[None] for name, values in arrays.items()}).to(torch.float64)


def play(
    agent: Agent, actions: str, targets: list[float], steps: int, way: AutoresetMode = AutoresetMode.NEXT_STEP
) -> list[Batch]:
    """Play `steps` steps of one environment for each target; return the recorder of each."""
    vector = SyncVectorEnv([lambda: Drift(actions)] * len(targets), autoreset_mode=way)
    player = Player(agent, len(targets), target_return=targets)
    recorders = [Recorder() for _ in targets]
    observations, _ = vector.reset(seed=5)
    rewards, starts = np.zeros(len(targets)), np.ones(len(targets), dtype=np.bool_)
    filler = np.zeros(len(targets), dtype=np.bool_)  # the episode is over: its action is ignored
    earned = np.zeros(len(targets))
    for _ in range(steps):
        taken = player.act(observations, rewards, starts)
        for row, recorder in enumerate(recorders):
            if not filler[row]:
                action = flatten(vector.single_action_space, _row(taken, row))
                recorder.rows.append((observations[row], action, earned[row], bool(starts[row])))
        observations, rewards, terminated, truncated, _ = vector.step(taken)
        over = terminated | truncated
        earned = np.where(over | filler, 0.0, earned + rewards)
        if way is AutoresetMode.NEXT_STEP:
            starts, filler = filler, over
        else:
            starts = over
            if way is AutoresetMode.DISABLED and over.any():
                observations, _ = vector.reset(options={"reset_mask": over})
    return [recorder.batch(target) for recorder, target in zip(recorders, targets, strict=True)]


def _row(batched: Any, row: int) -> Any:
    if isinstance(batched, dict):
        return {key: _row(part, row) for key, part in batched.items()}
    if isinstance(batched, tuple):
        return tuple(_row(part, row) for part in batched)
    return batched[row]


def largest_gap(agent: Agent, batch: Batch) -> float:
    """Return the largest gap between the actions that were taken and those that `predict` gives for the record."""
    with torch.inference_mode():
        return float((agent.predict(batch) - batch.actions).abs().max())
