"""Minari sets of every format load aligned, once, and their faults are named."""

import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from test_data_episodes import stack

from minrl.data import Episodes, load
from minrl.data.spaces import flatten

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float64)
ACTION = spaces.Box(-1, 1, (1,), np.float32)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up a home for the test alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINRL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sets").mkdir()
    return tmp_path


def buffer(e: int, steps: int, *, terminated: bool = True) -> EpisodeBuffer:
    """Build an episode: at step t observation 1000 e + t, action t / 1000, reward e + 1."""
    flags = [False] * (steps - 1)
    return EpisodeBuffer(
        observations=np.stack([1000.0 * e + np.arange(steps + 1)] * 2, axis=1),  # type: ignore[arg-type]
        actions=(np.arange(steps, dtype=np.float32) / 1000)[:, None],  # type: ignore[arg-type]
        rewards=[float(e + 1)] * steps,
        terminations=[*flags, terminated],
        truncations=[*flags, not terminated],
    )


def create(name: str, lengths: tuple[int, ...] = (3, 1, 250), **options: Any) -> None:
    """Write a set with Minari itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            name,
            [buffer(e, steps, terminated=e % 2 == 0) for e, steps in enumerate(lengths)],
            **{"observation_space": BOX, "action_space": ACTION, **options},
        )


def check_aligned(episodes: Episodes, lengths: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(episodes.lengths, lengths)
    for e, steps in enumerate(lengths):
        rows = slice(episodes.offsets[e], episodes.offsets[e + 1])
        np.testing.assert_array_equal(episodes.observations[rows, 0], 1000 * e + np.arange(steps))
        np.testing.assert_allclose(episodes.actions[rows, 0], np.arange(steps) / 1000, rtol=1e-6)
        np.testing.assert_array_equal(episodes.rewards[rows], e + 1)
        np.testing.assert_array_equal(episodes.returns_to_go[rows], (e + 1) * np.arange(steps, 0, -1))
        np.testing.assert_array_equal(episodes.final_observations[e], 1000 * e + steps)
    np.testing.assert_array_equal(episodes.terminated, np.arange(len(lengths)) % 2 == 0)
    np.testing.assert_array_equal(episodes.truncated, np.arange(len(lengths)) % 2 == 1)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_observations_actions_and_flags_stay_aligned(data_format: str, cache: bool) -> None:
    lengths = (3, 1, 250)
    create("test/aligned-v0", lengths, data_format=data_format)
    for _ in range(2):
        episodes = load("minari:test/aligned-v0", cache=cache)
        check_aligned(episodes, lengths)
        assert isinstance(episodes.observations, np.memmap) == cache
    assert episodes.reference_scores is None
    assert episodes.environment is None


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_an_episode_longer_than_32767_steps_stays_whole(data_format: str) -> None:
    lengths = (40_000, 5)
    create("long-v0", lengths, data_format=data_format)
    check_aligned(load("minari:long-v0"), lengths)


def test_blocks_may_be_smaller_than_an_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minrl.data.minari.hdf5.BLOCK_BYTES", 1000)
    lengths = (3, 1, 250, 2, 2, 2, 300, 1)
    create("blocks-v0", lengths)
    check_aligned(load("minari:blocks-v0"), lengths)


TREE = spaces.Dict(
    {
        "z": spaces.Discrete(3, start=1),
        "pair": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-1, 1, (2, 2)))),
        "counts": spaces.MultiDiscrete([2, 5]),
        "words": spaces.Text(4),
    }
)
PLAIN_TREE = spaces.Dict({key: part for key, part in TREE.spaces.items() if key != "words"})


@pytest.mark.parametrize(("data_format", "space"), [("hdf5", TREE), ("arrow", PLAIN_TREE), ("parquet", PLAIN_TREE)])
def test_nested_spaces_equal_gymnasium(data_format: str, space: spaces.Dict) -> None:
    actions = spaces.Tuple((spaces.Discrete(4, start=2), spaces.Box(-1, 1, (1,))))
    space.seed(0)
    actions.seed(1)
    seen, done, buffers = [], [], []
    for steps in (4, 1, 6):
        seen.append([space.sample() for _ in range(steps + 1)])
        done.append([actions.sample() for _ in range(steps)])
        ended = [False] * (steps - 1) + [True]
        buffers.append(
            EpisodeBuffer(
                observations=stack(space, seen[-1]),
                actions=stack(actions, done[-1]),
                rewards=[1] * steps,
                terminations=ended,
                truncations=[False] * steps,
            )
        )
    options: dict[str, Any] = {"observation_space": space, "action_space": actions, "data_format": data_format}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers("tree-v0", buffers, **options)
    episodes = load("minari:tree-v0")
    flat = [flatten(space, stack(space, samples)) for samples in seen]
    np.testing.assert_array_equal(episodes.observations, np.concatenate([part[:-1] for part in flat]))
    np.testing.assert_array_equal(episodes.final_observations, np.stack([part[-1] for part in flat]))
    expected = np.stack([np.asarray(spaces.flatten(actions, a)) for part in done for a in part])
    np.testing.assert_array_equal(episodes.actions, expected.astype(np.float32))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("jpeg", [True, False])
def test_images_flatten_to_numbers_from_0_to_255(data_format: str, jpeg: bool) -> None:
    space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    shades = np.array([0, 100, 255])
    images = np.broadcast_to(shades[:, None, None, None], (3, 32, 32, 3)).astype(np.uint8)
    episode = EpisodeBuffer(
        observations=images,  # type: ignore[arg-type]
        actions=np.zeros((2, 1), np.float32),  # type: ignore[arg-type]
        rewards=[0.0, 1.0],
        terminations=[False, True],
        truncations=[False, False],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "image-v0",
            [episode],
            observation_space=space,
            action_space=ACTION,
            data_format=data_format,
            jpeg_encoding=jpeg,
        )
    episodes = load("minari:image-v0")
    assert episodes.observations.shape == (2, 32 * 32 * 3)
    np.testing.assert_allclose(episodes.observations.mean(axis=1), shades[:2], atol=2)
    np.testing.assert_allclose(episodes.final_observations.mean(axis=1), shades[2:], atol=2)


def test_the_evaluation_environment_is_preferred() -> None:
    create(
        "pole-v0",
        env=gymnasium.make("CartPole-v1").spec,
        eval_env="CartPole-v0",
        ref_min_score=1.0,
        ref_max_score=3.0,
    )
    episodes = load("minari:pole-v0")
    environment = episodes.environment
    assert environment is not None
    assert (environment.id, environment.max_episode_steps) == ("CartPole-v0", 200)
    assert episodes.reference_scores == (1.0, 3.0)


def edit(name: str, change: Any) -> Path:
    """Change the HDF5 file of a set."""
    path = minari.storage.get_dataset_path(name) / "data" / "main_data.hdf5"
    with h5py.File(path, "r+") as file:
        change(file)
    return Path(path)


def test_the_cache_follows_the_file() -> None:
    create("changing-v0")
    assert load("minari:changing-v0").observations[0, 0] == 0
    edit("changing-v0", lambda file: file["episode_0/observations"].__setitem__((0, 0), 77.0))
    assert load("minari:changing-v0").observations[0, 0] == 77


def test_a_cache_that_cannot_be_written_costs_a_warning(folders: Path) -> None:
    create("plain-v0")
    (folders / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="data cache .* cannot be written"):
        check_aligned(load("minari:plain-v0"), (3, 1, 250))


def test_a_cache_cut_short_is_made_again(folders: Path) -> None:
    create("again-v0")
    load("minari:again-v0")
    stored = next((folders / "cache").glob("*/observations.npy"))
    stored.write_bytes(stored.read_bytes()[:-64])
    check_aligned(load("minari:again-v0"), (3, 1, 250))


def _load_sum(name: str) -> float:
    return float(load(name).observations.sum())


def test_processes_may_convert_at_once(folders: Path) -> None:
    create("shared-v0", (500,) * 40)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        sums = pool.map(_load_sum, ["minari:shared-v0"] * 3)
    assert len(set(sums)) == 1
    assert len(list((folders / "cache").iterdir())) == 1


@pytest.mark.parametrize("name", ["hopper", "gym:hopper", "minari:", ""])
def test_another_prefix_gets_the_three_forms(name: str) -> None:
    with pytest.raises(ValueError, match="none of minari:NAME, d4rl:NAME or hdf5:FILE"):
        load(name)


def test_a_minari_file_loads_by_path() -> None:
    create("path-v0")
    path = minari.storage.get_dataset_path("path-v0") / "data" / "main_data.hdf5"
    check_aligned(load(f"hdf5:{path}"), (3, 1, 250))
