"""Packed rows hold whole trajectories, windows are drawn by length, and both restore exactly."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data_episodes import small

from minrl.data import Packed, Windows
from minrl.data.batches import NumpyBatch


def observed(batch: NumpyBatch) -> np.ndarray:
    return batch["observations"][..., 0]


def test_a_packed_row_is_one_stream_of_whole_episodes() -> None:
    episodes = small((3, 1, 4, 9))
    packed = Packed(episodes, batch_size=2, length=5, seed=1)
    batches = [next(packed) for _ in range(40)]
    for row in range(2):
        stream = np.concatenate([observed(batch)[row] for batch in batches])
        reset = np.concatenate([batch["reset"][row] for batch in batches])
        pieces = [piece for piece in np.split(stream, np.flatnonzero(reset)) if len(piece)]
        for number, piece in enumerate(pieces[:-1]):  # the last one continues in the next batch
            e = int(piece[0]) // 1000
            whole = 1000 * e + np.arange(episodes.lengths[e])
            # The first one of a row may be entered in the middle.
            np.testing.assert_array_equal(piece, whole[-len(piece) :] if number == 0 else whole)


@pytest.mark.parametrize(("steps", "length"), [(1000, 500), (1000, 300), (50, 20), (40, 60), (7, 3)])
def test_rows_of_one_length_are_spread_over_the_time_steps(steps: int, length: int) -> None:
    """Hold each tenth of the episodes as often as any other in every batch, where rows in phase would hold only some.

    A tenth of the time steps is a tenth of a uniform sample: B rows that are spread evenly differ from it by one row.
    """
    rows = 40
    packed = Packed(small((steps,) * 60), batch_size=rows, length=length, seed=5)
    for _ in range(12):
        batch = next(packed)
        assert len(np.unique(batch["time_steps"][:, 0])) >= min(rows, steps) / 2
        share = np.histogram(batch["time_steps"] / steps, bins=[0, 0.5, 1])[0] / batch["mask"].size
        assert share == pytest.approx(np.array([0.5, 0.5]), abs=1 / rows + 1 / steps)


def test_rows_begin_at_every_step() -> None:
    """Count the first row's start over 4000 seeds: each of ten steps 400 times, within five standard deviations."""
    episodes = small((10,) * 3)
    begun = [next(Packed(episodes, 1, 3, seed=seed))["time_steps"][0, 0] for seed in range(4000)]
    assert np.abs(np.bincount(begun, minlength=10) - 400).max() < 5 * 19


@pytest.mark.parametrize(("steps", "length"), [(8, 8), (4, 8)])
def test_episodes_that_fill_a_row_are_not_cut(steps: int, length: int) -> None:
    packed = Packed(small((steps,) * 9), batch_size=3, length=length, seed=0)
    for _ in range(9):
        np.testing.assert_array_equal(next(packed)["time_steps"], np.tile(np.arange(length) % steps, (3, 1)))


def test_an_episode_entered_in_the_middle_has_no_reset() -> None:
    batch = next(Packed(small((100,) * 3), batch_size=5, length=30, seed=0))
    assert (batch["time_steps"][:, 0] > 0).any()
    np.testing.assert_array_equal(batch["reset"], batch["time_steps"] == 0)
    entered = batch["time_steps"][:, 0] > 0
    before = (observed(batch)[entered, 0] - 1) / 1000
    np.testing.assert_allclose(batch["previous_actions"][entered, 0, 1], before, rtol=1e-6)


def test_packed_fields_belong_to_the_same_step() -> None:
    episodes = small((3, 1, 4, 9))
    for batch, _ in zip(Packed(episodes, 3, 7, seed=0), range(20), strict=False):
        step = (observed(batch) % 1000).astype(int)
        np.testing.assert_array_equal(batch["time_steps"], step)
        np.testing.assert_array_equal(batch["reset"], step == 0)
        assert batch["mask"].all()
        np.testing.assert_allclose(batch["actions"][..., 0], observed(batch) / 1000, rtol=1e-6)
        before = np.where(step == 0, 0, (observed(batch) - 1) / 1000)
        np.testing.assert_allclose(batch["previous_actions"][..., 1], before, rtol=1e-6)
        rows = (observed(batch) // 1000).astype(int)
        index = episodes.offsets[rows] + step
        np.testing.assert_array_equal(batch["returns_to_go"], episodes.returns_to_go[index])
        np.testing.assert_array_equal(batch["rewards"], episodes.rewards[index])


def test_packed_takes_every_episode_once_before_any_twice() -> None:
    packed = Packed(small((2,) * 12), batch_size=4, length=6, seed=3)
    first = [observed(next(packed)) // 1000 for _ in range(2)]
    drawn, counts = np.unique(np.concatenate(first), return_counts=True)
    np.testing.assert_array_equal(drawn, range(12))
    assert set(counts) == {4}  # 2 steps in each of 2 passes
    # Rows that begin in the middle and have cut episodes: nine of them in a row of 900 steps after the first, twice.
    packed = Packed(small((100,) * 9), batch_size=1, length=90, seed=3)
    row = np.concatenate([batch for _ in range(21) for batch in next(packed)["time_steps"]])
    packed = Packed(small((100,) * 9), batch_size=1, length=90, seed=3)
    episode = np.concatenate([batch for _ in range(21) for batch in observed(next(packed)) // 1000])
    opened = episode[row == 0]
    first = [int(episode[0]), *opened[:8]]
    assert sorted(first) == list(range(9))
    assert sorted(opened[8:17]) == list(range(9))


def test_windows_are_drawn_by_length_from_every_step() -> None:
    windows = Windows(small((2, 8)), batch_size=4000, length=3, seed=0)
    batch = next(windows)
    starts, counts = np.unique(observed(batch)[:, 0], return_counts=True)
    np.testing.assert_array_equal(starts, [0, 1, *range(1000, 1008)])
    # Ten starts of equal probability: 400 each, standard deviation 19.
    assert np.abs(counts - 400).max() < 5 * 19


def test_windows_pad_on_the_right_with_zeros() -> None:
    batch = next(Windows(small((2, 8)), batch_size=500, length=4, seed=0))
    length = np.where(observed(batch)[:, 0] < 1000, 2, 8)
    start = (observed(batch)[:, 0] % 1000).astype(int)
    np.testing.assert_array_equal(batch["mask"].sum(axis=1), np.minimum(4, length - start))
    assert (np.diff(batch["mask"].astype(int), axis=1) <= 0).all()
    for field in ("observations", "actions", "previous_actions", "rewards", "returns_to_go", "time_steps"):
        assert not batch[field][~batch["mask"]].any(), field
    np.testing.assert_array_equal(batch["reset"], np.arange(4)[None, :] == np.zeros((500, 1)))
    mid = start > 0
    before = (observed(batch)[mid, 0] - 1) / 1000
    np.testing.assert_allclose(batch["previous_actions"][mid, 0, 0], before, rtol=1e-6)


@pytest.mark.parametrize("sampler", [Packed, Windows])
def test_a_restored_state_gives_the_same_batches(sampler: type[Packed | Windows], tmp_path: Path) -> None:
    episodes = small((3, 1, 4, 9))
    original = sampler(episodes, 3, 5, seed=4)
    for _ in range(7):
        next(original)
    torch.save(original.state_dict(), tmp_path / "state.pt")
    expected = [next(original) for _ in range(9)]
    restored = sampler(episodes, 3, 5, seed=99)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch in expected:
        for field, values in next(restored).items():
            np.testing.assert_array_equal(values, batch[field], err_msg=field)
    other = next(sampler(episodes, 3, 5, seed=5))
    assert any((other[field] != expected[0][field]).any() for field in other)


def test_a_state_of_another_batch_size_is_refused() -> None:
    with pytest.raises(ValueError, match="state of 2 rows, this batch has 3"):
        Packed(small(), 3, 4).load_state_dict(Packed(small(), 2, 4).state_dict())


@pytest.mark.parametrize("sampler", [Packed, Windows])
def test_sizes_must_be_positive(sampler: type[Packed | Windows]) -> None:
    with pytest.raises(ValueError, match="length must be 1 or more, not 0"):
        sampler(small(), 1, 0)


@pytest.mark.parametrize(("sampler", "size", "length"), [(Windows, 64, 20), (Packed, 64, 20), (Packed, 4, 1000)])
def test_a_batch_does_not_visit_every_episode(sampler: type[Packed | Windows], size: int, length: int) -> None:
    """Make no more calls for ten times the episodes: a batch costs 3 ms at most beside a training step of 60 ms."""
    calls = []
    for episodes in (200, 2000):
        drawn, count = sampler(small((150,) * episodes), size, length, seed=0), 0

        def counted(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event.endswith("call")

        next(drawn)
        sys.setprofile(counted)
        next(drawn)
        sys.setprofile(None)
        calls.append(count)
    assert calls[1] <= 1.5 * calls[0]
