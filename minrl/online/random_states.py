"""The state of the random generators that training draws from: torch's, NumPy's global one and Python's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """All of them as arrays and plain values."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in cuda],
        "numpy": np.random.get_state(),  # noqa: NPY002, the generator that Stable-Baselines3 uses
        "python": random.getstate(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """The inverse of `random_states`; those of GPUs only where there are as many."""
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([torch.from_numpy(state) for state in states["cuda"]])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put all random generators back at the end, so that what is drawn within leaves no trace in training."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)
