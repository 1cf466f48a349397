"""The number of environments changes an action's rounding only.

Shapes: B environments.
"""

import numpy as np
import pytest
import torch
from decision_agents import agent_of

from minrl.cells import CELLS
from minrl.play import Player


def actions(cell: str, batch_size: int, dtype: torch.dtype) -> np.ndarray:
    """Return the first environment's actions over 20 steps, with a reset in the middle."""
    options = {"cell_options": {"context": 8}} if cell == "transformer" else {}
    torch.manual_seed(0)
    agent = agent_of(cell=cell, **options).to(dtype)
    player = Player(agent, batch_size)
    generator = np.random.default_rng(0)
    taken = []
    for step in range(20):
        observations, rewards = generator.normal(size=(12, 3)), generator.normal(size=12)
        action = player.act(observations[:batch_size], rewards[:batch_size], np.full(batch_size, step in (0, 9)))
        taken.append(action[0])
    return np.array(taken)


# In float32 a large error hides a small one, in float64 none does.
@pytest.mark.parametrize(
    ("cell", "dtype", "tolerance"),
    [
        *((cell, torch.float32, 1e-4) for cell in CELLS),
        *((cell, torch.float64, 1e-12) for cell in ("mingru", "lstm", "transformer")),
    ],
)
def test_the_batch_size_changes_rounding_alone(cell: str, dtype: torch.dtype, tolerance: float) -> None:
    alone = actions(cell, 1, dtype)
    assert np.ptp(alone) > 0.1
    for batch_size in (2, 12):
        np.testing.assert_allclose(actions(cell, batch_size, dtype), alone, atol=tolerance, rtol=0)


@pytest.mark.parametrize("cell", ["mingru", "minlstm"])
def test_the_compiled_step_rounds_alike(cell: str) -> None:
    alone = actions(cell, 1, torch.float32)
    for batch_size in (2, 5, 12):
        np.testing.assert_array_equal(actions(cell, batch_size, torch.float32), alone)
