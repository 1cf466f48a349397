"""Returns-to-go raised by a learned value, on data whose stitched returns are known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from worlds import drift_episodes

from minrl.data import Episodes, build_episodes
from minrl.data.task import Task
from minrl.runs.folder import RELABEL_SUMMARY, RETURNS_TO_GO
from minrl.system.distributed import Group
from minrl.training import relabel_returns
from minrl.training.relabel_returns import (
    EXPECTILE,
    Value,
    initial_returns,
    raise_returns,
    relabel,
    relabelled_task,
    report_rows,
)

ALONE = Group(0, 1)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce training, as such small data are learned soon."""
    monkeypatch.setattr(relabel_returns, "STEPS", 200)
    monkeypatch.setattr(relabel_returns, "ROWS", 64)


def crossing(count: int = 20) -> Episodes:
    """Build two paths that meet in the middle: from the left all turn off and earn 0, from the right all earn 10.

    Observations are one-hot: left, right, middle.
    """
    left, right, middle = np.eye(3)
    observations, rewards = [], []
    for way, earned in ((left, 0.0), (right, 10.0)):
        observations += [way, middle] * count
        rewards += [1.0, earned] * count
    return build_episodes(
        name="crossing", observations=observations, actions=np.zeros((4 * count, 1)), rewards=rewards,
        final_observations=np.zeros((2 * count, 3)), lengths=[2] * (2 * count), terminated=[True] * (2 * count),
        truncated=[False] * (2 * count), observation_space=spaces.Box(-1, 1, (3,)),
        action_space=spaces.Box(-1, 1, (1,)),
    )  # fmt: skip


def labels_of(episodes: Episodes, out: Path, seed: int = 0, **options: Any) -> Episodes:
    return relabel(episodes, None, seed=seed, out=out, group=ALONE, **{"resumed": False, **options})[0]


def test_the_recursion() -> None:
    """Compute R_t = r_t + max(R_{t+1}, V_{t+1}) step by step in float64, over episodes of many lengths."""
    episodes = drift_episodes()
    values = 30 * np.random.default_rng(0).normal(size=episodes.num_steps)
    wanted = np.zeros(episodes.num_steps)
    for start, stop in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True):
        following, value = 0.0, 0.0
        for t in range(stop - 1, start - 1, -1):
            following = wanted[t] = episodes.rewards[t] + max(following, value)
            value = values[t]
    assert np.allclose(raise_returns(episodes, values), wanted, rtol=1e-5, atol=1e-4)
    assert not np.allclose(wanted, episodes.returns_to_go, atol=1.0)
    nothing = raise_returns(episodes, np.full(episodes.num_steps, -1e9))
    assert np.allclose(nothing, episodes.returns_to_go, rtol=1e-5, atol=1e-4)


def test_paths_that_cross_are_stitched(tmp_path: Path) -> None:
    """Estimate the middle's value as the expectile of 0 and 10, equally likely: 10 tau."""
    before = crossing()
    after = labels_of(before, tmp_path)
    left, turned, right, prized = (after.returns_to_go[i::2][j] for j in (0, 20) for i in (0, 1))
    assert turned == 0.0  # the last step's return is its reward
    assert prized == 10.0
    assert right == pytest.approx(11.0, abs=1e-5)  # no stitched path is better
    assert left == pytest.approx(1 + 10 * EXPECTILE, abs=0.3)
    assert np.array_equal(after.rewards, before.rewards)
    assert relabelled_task(after).best_return == pytest.approx(11.0)
    assert initial_returns(after).shape == (40,)


def test_the_summary_of_the_value(tmp_path: Path) -> None:
    labels_of(crossing(), tmp_path)
    found = json.loads((tmp_path / RELABEL_SUMMARY).read_text())
    assert found["share_raised"] == pytest.approx(0.25)
    assert found["mean_raise"] == pytest.approx(7.0, abs=0.3)
    assert found["mean_return"] == pytest.approx(6.0)
    # A state determines all but the turn in the middle: half of the steps with 0 or 10, whose value is 7.
    assert 0.2 < found["explained_variance"] < 0.8
    rows = dict(report_rows(tmp_path))
    assert "25% of the steps" in rows["returns-to-go raised"]
    assert report_rows(tmp_path / "elsewhere") == []


def test_a_resumed_run_has_the_same_labels(tmp_path: Path) -> None:
    episodes = drift_episodes()
    first = labels_of(episodes, tmp_path)
    kept = labels_of(episodes, tmp_path, resumed=True, seed=7)  # read from the file
    assert np.array_equal(first.returns_to_go, kept.returns_to_go)
    again, other = labels_of(episodes, tmp_path / "again"), labels_of(episodes, tmp_path / "other", seed=1)
    assert np.array_equal(first.returns_to_go, again.returns_to_go)
    assert not np.array_equal(first.returns_to_go, other.returns_to_go)
    # A new run in the same folder learns labels of its own; a run whose labels are gone learns them again.
    assert np.array_equal(labels_of(episodes, tmp_path, seed=1).returns_to_go, other.returns_to_go)
    (tmp_path / RETURNS_TO_GO).unlink()
    assert np.array_equal(labels_of(episodes, tmp_path, resumed=True).returns_to_go, first.returns_to_go)
    with pytest.raises(ValueError, match=r"returns_to_go.npy holds labels of \d+ steps, drift has other data now"):
        labels_of(drift_episodes(count=3), tmp_path, resumed=True)


def test_held_out_episodes_do_not_affect_the_value(tmp_path: Path) -> None:
    episodes = drift_episodes(count=20)
    learned, held_out = episodes.select(range(15)), episodes.select(range(15, 20))
    richer = replace(held_out, rewards=held_out.rewards + 100, returns_to_go=held_out.returns_to_go + 100)
    pairs = [
        relabel(learned, other, seed=0, out=tmp_path / name, group=ALONE, resumed=False)
        for name, other in (("plain", held_out), ("richer", richer))
    ]
    assert np.array_equal(pairs[0][0].returns_to_go, pairs[1][0].returns_to_go)
    for before, (_, after) in zip((held_out, richer), pairs, strict=True):
        assert after is not None
        assert (after.returns_to_go >= before.returns_to_go - 1e-3).all()


def test_values_are_clipped_to_the_data() -> None:
    """Clip far away observations and times beyond the longest episode, where the network would exceed it."""
    episodes = drift_episodes()
    value = Value(episodes)
    with torch.no_grad():
        value.layers[-1].bias.fill_(1e6)
    most = episodes.returns_to_go.max()
    assert value.of(episodes).max() <= most + 1e-6
    late = replace(episodes, offsets=np.array([0, episodes.num_steps]), final_observations=np.zeros((1, 3)),
                   terminated=np.array([True]), truncated=np.array([False]))  # fmt: skip
    assert value.of(late).max() <= most + 1e-6
    assert relabelled_task(episodes).best_return == pytest.approx(Task.of(episodes).best_return, rel=1e-6)
