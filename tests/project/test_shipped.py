"""The shipped data set: readable by Minari, small, and equal to its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

import minrl

ROOT = Path(minrl.__file__).parent / "data" / "shipped"
NAME = "minrl/hopper/medium-replay-v0"


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(ROOT))
    return minari.load_dataset(NAME)


def test_it_matches_its_metadata(dataset: Any) -> None:
    assert NAME in minari.list_local_datasets()
    assert dataset.recover_environment().spec.id == "Hopper-v5"
    assert dataset.recover_environment(eval_env=True).spec.id == "Hopper-v5"
    episodes = list(dataset.iterate_episodes())
    assert len(episodes) == dataset.total_episodes
    assert sum(len(episode.rewards) for episode in episodes) == dataset.total_steps >= 50_000
    assert sum(file.stat().st_size for file in ROOT.rglob("*") if file.is_file()) <= 4_000_000


def test_every_episode_is_whole(dataset: Any) -> None:
    for episode in dataset.iterate_episodes():
        steps = len(episode.rewards)
        assert episode.observations.shape == (steps + 1, 11)
        assert episode.actions.shape == (steps, 3)
        assert episode.observations.dtype == episode.actions.dtype == episode.rewards.dtype == np.float32
        assert np.isfinite(episode.observations).all()
        assert np.abs(episode.actions).max() <= 1
        # Hopper falls within its time limit of 1000 steps or is cut at it.
        fell = steps < 1000
        assert episode.terminations.tolist() == [False] * (steps - 1) + [fell]
        assert episode.truncations.tolist() == [False] * (steps - 1) + [not fell]


def test_it_mixes_good_and_bad_episodes(dataset: Any) -> None:
    returns = np.array([episode.rewards.sum() for episode in dataset.iterate_episodes()])
    assert returns.min() < 50
    assert returns.max() > 2500
    # The best returns lie far above the mean, so that choosing well beats imitating everything.
    assert np.quantile(returns, 0.9) > returns.mean() + 500


def test_the_first_steps_replay(dataset: Any) -> None:
    """Replay a few steps, over which releases of MuJoCo agree; over many, the time of a fall may differ."""
    environment = dataset.recover_environment()
    seeds = [metadata["seed"] for metadata in dataset.storage.get_episode_metadata(dataset.episode_indices)]
    for episode, seed in zip(dataset.iterate_episodes(), seeds, strict=True):
        observation, _ = environment.reset(seed=seed)
        np.testing.assert_allclose(observation, episode.observations[0], atol=1e-6)
        for step in range(5):
            observation, reward, *_ = environment.step(episode.actions[step])
            np.testing.assert_allclose(observation, episode.observations[step + 1], atol=1e-3)
            np.testing.assert_allclose(reward, episode.rewards[step], atol=1e-3)
