"""Damaged caches are noticed, named and rebuilt."""

import logging
import os
import random
from pathlib import Path

import numpy as np
import pytest
from worlds import cartpole, own_folders

from minrl.data import load

__all__ = ["cartpole", "own_folders"]


def test_every_flipped_bit_of_the_cache_is_noticed(cartpole: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = load(cartpole, cache=False)
    load(cartpole)
    (folder,) = Path(os.environ["MINRL_CACHE"]).iterdir()
    draw = random.Random(0)
    for file in sorted(folder.glob("*.npy")):
        for _ in range(3):
            damaged = bytearray(file.read_bytes())
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            file.write_bytes(damaged)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                found = load(cartpole)
            assert f"({file.name}), so the set is converted anew" in caplog.text
            for name in ("observations", "actions", "rewards", "offsets", "returns_to_go", "final_observations"):
                np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    caplog.clear()
    load(cartpole)
    assert not caplog.text


def test_a_cache_that_was_not_written_to_its_end_is_not_read(cartpole: str) -> None:
    load(cartpole)
    (folder,) = Path(os.environ["MINRL_CACHE"]).iterdir()
    rewards = np.load(folder / "rewards.npy")
    np.save(folder / "rewards.npy", rewards + 1)
    (folder / "digests.json").unlink()
    np.testing.assert_array_equal(load(cartpole).rewards, rewards)
