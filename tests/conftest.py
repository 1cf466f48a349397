"""Settings of every test: one thread and a fixed seed."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start each test from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
