"""A flipped bit of any file of a collected data set is noticed, or changes nothing that is loaded."""

import random
from pathlib import Path

import numpy as np
import pytest
from worlds import own_folders

from minrl.collect.record import collect
from minrl.data import Episodes
from minrl.data.minari.folders import MAIN, find
from minrl.data.minari.load import load_folder

__all__ = ["own_folders"]


def loaded(data: Path) -> Episodes | None:
    """Load a set without the cache; None if that ends in an error of its own."""
    try:
        return load_folder(data, "set", cache=False)
    except ValueError:
        return None


def equal(one: Episodes, other: Episodes) -> bool:
    arrays = ("observations", "actions", "rewards", "final_observations", "offsets", "terminated", "truncated")
    facts = ("observation_space", "action_space", "environment", "reference_scores")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays) and all(
        getattr(one, name) == getattr(other, name) for name in facts
    )


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(compress: bool) -> None:
    """Draw 150 bits of the values and all else that the HDF5 file holds, and 60 of the metadata."""
    collect("random", "Pendulum-v1", 2, "flips/pendulum-v0", max_episode_steps=30, compress=compress, progress=False)
    data = _folder()
    whole = loaded(data)
    assert whole is not None
    assert whole.num_steps == 60
    draw, noticed = random.Random(compress), 0
    for name, count in ((MAIN, 150), ("metadata.json", 60)):
        content = (data / name).read_bytes()
        for bit in draw.sample(range(8 * len(content)), count):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            (data / name).write_bytes(changed)
            found = loaded(data)
            noticed += found is None
            assert found is None or equal(found, whole), (name, bit)
        (data / name).write_bytes(content)
    assert noticed > 60


def test_minari_appends_to_a_collected_set_and_it_still_loads() -> None:
    import minari

    collect("random", "Pendulum-v1", 2, "flips/pendulum-v0", max_episode_steps=30, progress=False)
    minari_set = minari.load_dataset("flips/pendulum-v0")
    episode = minari_set[0]
    buffer = minari.data_collector.EpisodeBuffer(
        id=None, observations=list(episode.observations), actions=list(episode.actions),
        rewards=list(episode.rewards), terminations=list(episode.terminations), truncations=list(episode.truncations),
        infos={},
    )  # fmt: skip
    minari_set.update_dataset_from_buffer([buffer])
    again = loaded(_folder())
    assert again is not None
    assert again.num_episodes == 3
    assert np.array_equal(again.observations[60:], again.observations[:30])


def _folder() -> Path:
    folder = find("flips/pendulum-v0")
    assert folder is not None
    return folder / "data"
