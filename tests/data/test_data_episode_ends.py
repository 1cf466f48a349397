"""Ends of episodes in a flat HDF5 file: rounding is no end, and doubtful files are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_d4rl import at, write
from test_data_minari import folders  # noqa: F401

from minrl.data import load
from minrl.data.d4rl.episodes import differ

pytestmark = pytest.mark.usefixtures("folders")


def walk(episodes: int, steps: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the observations of random walks and the next observation of each, in float64."""
    random = np.random.default_rng(episodes)
    paths = scale * (5.0 + random.normal(size=(episodes, steps + 1, 4)).cumsum(axis=1))
    return paths[:, :-1].reshape(-1, 4), paths[:, 1:].reshape(-1, 4)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("stored", [np.float16, np.float32, "float64, once float32", np.float64])
@pytest.mark.parametrize("swapped", [False, True])
def test_rounding_ends_no_episode(tmp_path: Path, stored: Any, scale: float, swapped: bool) -> None:
    if stored == np.float16 and scale != 1.0:
        scale *= 2.0**-7 if scale > 1 else 1e9  # within the range of the type
        scale = min(scale, 1000.0)
    observations, following = walk(6, 50, scale)
    rounded = observations if swapped else following
    kept = rounded.astype(np.float32).astype(np.float64) if isinstance(stored, str) else rounded.astype(stored)
    fields = {"observations": observations, "next_observations": following}
    fields["observations" if swapped else "next_observations"] = kept
    zeros = np.zeros(300, np.bool_)
    for timeouts in (None, zeros):
        path = write(tmp_path / f"{timeouts is None}.hdf5", 300, **fields, terminals=zeros, timeouts=timeouts)
        episodes = load(f"hdf5:{path}")
        np.testing.assert_array_equal(episodes.lengths, [50] * 6)
        np.testing.assert_array_equal(episodes.returns, episodes.rewards.reshape(6, 50).sum(axis=1))


def test_exactly_representable_values_are_compared_exactly() -> None:
    # 5,412,345 and the next metre: half a unit of float32 lies between them.
    north = 5_412_345.0 + np.arange(8)[:, None] / 4
    assert differ(north, north + 0.25).all()
    assert not differ(north, north).any()
    whole = np.arange(16_000_000, 16_000_008)[:, None]
    assert differ(whole.astype(np.float64), whole + 1.0).all()
    assert differ(whole, whole + 1).all()
    assert not differ(whole[:, 0], whole[:, 0].astype(np.float64)).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timeouts": None, "next_observations": None}, "the whole file is one episode of 12 steps, as it has neither"),
        ({"timeouts": None}, "the whole file is one episode of 12 steps, as next_observations mark no end"),
        ({"next_observations": None}, "the whole file is one episode of 12 steps, as timeouts mark no end"),
        (
            {"timeouts": None, "next_observations": None, "terminals": at(3)},
            "has neither timeouts nor next_observations, so only terminals end its 2 episodes, the longest of 8 steps",
        ),
        ({"timeouts": None, "next_observations": np.zeros((12, 11)) - 9}, "12 of its 12 steps are episodes"),
    ],
)
def test_a_file_with_doubtful_episode_ends_is_named(
    tmp_path: Path, fields: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "flat.hdf5", **fields)
    for _ in range(2):  # converted, and from the cache
        load(f"hdf5:{path}")
        (line,) = [text for text in caplog.messages if "episode" in text]
        assert message in line
        assert str(path) in line
        caplog.clear()


def test_a_file_with_clear_episode_ends_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, fields in {"end": {"terminals": at(11)}, "cut": {"timeouts": at(11)}, "two": {"timeouts": at(5)}}.items():
        load(f"hdf5:{write(tmp_path / f'{name}.hdf5', **fields)}")
    assert not [text for text in caplog.messages if "episode" in text.replace(str(tmp_path), "")]


@pytest.mark.parametrize("timeouts", [None, np.zeros(450, np.bool_)], ids=["missing", "all zero"])
@pytest.mark.parametrize(
    ("name", "file", "lengths"),
    [
        ("pen-expert-v0", "pen-v0_expert_clipped.hdf5", [100, 30, 100, 100, 20, 100]),
        ("maze2d-umaze-v1", "maze2d-umaze-sparse-v1.hdf5", [130, 220, 100]),
        ("kitchen-mixed-v0", "kitchen_microwave_kettle_bottomburner_light-v0.hdf5", [130, 220, 100]),
    ],
)
def test_timeouts_that_are_never_set_are_ignored(
    tmp_path: Path, name: str, file: str, lengths: list[int], timeouts: Any
) -> None:
    write(tmp_path / "d4rl" / file, 450, terminals=at(129, 349, steps=450), timeouts=timeouts)
    episodes = load(f"d4rl:{name}")
    np.testing.assert_array_equal(episodes.lengths, lengths)
    limit = 100 if name.startswith("pen") else 300
    np.testing.assert_array_equal(episodes.truncated, episodes.lengths == limit)
