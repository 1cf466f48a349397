"""Targets over n steps against a loop in float64."""

import numpy as np
import pytest
import torch

from minrl.online.offpolicy.targets import n_step_targets


def by_loop(rewards: np.ndarray, values: np.ndarray, last: np.ndarray, gamma: float, steps: int) -> np.ndarray:
    """Add rewards one by one until the target bootstraps."""
    found = np.zeros(rewards.shape)
    for b in range(len(rewards)):
        for t in range(rewards.shape[1]):
            at, discount = t, 1.0
            while at < t + steps and not last[b, at]:
                found[b, t] += discount * float(rewards[b, at])
                at, discount = at + 1, discount * gamma
            found[b, t] += discount * float(values[b, at])
    return found


@pytest.mark.parametrize("steps", [1, 3, 100])
def test_targets_are_those_of_a_loop(steps: int) -> None:
    random = np.random.default_rng(steps)
    rewards, values = random.normal(size=(2, 7, 40)).astype(np.float32) * 100
    last = random.random((7, 40)) < 0.15
    last[:, -1] = True
    found = n_step_targets(*map(torch.from_numpy, (rewards, values, last)), 0.97, steps)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, by_loop(rewards, values, last, 0.97, steps), rtol=2e-6, atol=2e-4)
