"""Masks of the steps that a faulty step of their episode reaches."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from minrl.cells import nan_masks


def reached_by_hand(faulty: np.ndarray, memory: np.ndarray, reset: np.ndarray) -> np.ndarray:
    """Walk along each row: a reset clears what a faulty step or memory has spoiled."""
    spoiled = np.zeros_like(faulty)
    for row, now in enumerate(memory):
        for step in range(faulty.shape[1]):
            now = (now and not reset[row, step]) or faulty[row, step]
            spoiled[row, step] = now
    return spoiled


@pytest.mark.parametrize("form", [nan_masks.reached, nan_masks._reached_pairwise], ids=["cumulative", "pairwise"])
def test_a_faulty_step_reaches_the_end_of_its_episode(form: Callable[..., torch.Tensor]) -> None:
    draw = np.random.default_rng(0)
    faulty, reset, memory = draw.random((64, 12)) < 0.1, draw.random((64, 12)) < 0.2, draw.random(64) < 0.3
    result = form(torch.from_numpy(faulty), torch.from_numpy(memory), torch.from_numpy(reset))
    np.testing.assert_array_equal(result.numpy(), reached_by_hand(faulty, memory, reset))
