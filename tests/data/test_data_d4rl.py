"""D4RL's files: episodes from their flags, reference scores and environments by name, bounds of actions."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from test_data_minari import folders  # noqa: F401

from minrl.data import load
from minrl.data.d4rl.table import FILES, environment, reference_scores

pytestmark = pytest.mark.usefixtures("folders")


def write(path: Path, steps: int = 12, **fields: Any) -> Path:
    """Write a flat file whose observation is its row; a field given as None is left out."""
    rows = np.arange(steps, dtype=np.float32)
    data = {
        "observations": np.stack([rows] * 11, axis=1),
        "actions": np.stack([np.sin(rows)] * 3, axis=1),
        "rewards": rows + 1,
        "terminals": np.zeros(steps, bool),
        "timeouts": np.zeros(steps, bool),
        "next_observations": np.stack([rows + 1] * 11, axis=1),
        "infos/qpos": np.zeros((steps, 5)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in {**data, **fields}.items():
            if values is not None:
                file.create_dataset(key, data=values, compression="gzip")
    return path


def at(*indices: int, steps: int = 12) -> np.ndarray:
    flags = np.zeros(steps, bool)
    flags[list(indices)] = True
    return flags


def test_episodes_end_at_terminals_and_timeouts_and_the_last_piece_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "d4rl" / "hopper_medium-v2.hdf5", terminals=at(2, 6), timeouts=at(3, 6, 8))
    for cache in (True, True, False):
        episodes = load("d4rl:hopper-medium-v2", cache=cache)
        np.testing.assert_array_equal(episodes.offsets, [0, 3, 4, 7, 9, 12])
        np.testing.assert_array_equal(episodes.terminated, [True, False, True, False, False])
        np.testing.assert_array_equal(episodes.truncated, [False, True, True, True, False])
        np.testing.assert_array_equal(episodes.observations[:, 0], np.arange(12))
        np.testing.assert_array_equal(episodes.final_observations[:, 0], [3, 4, 7, 9, 12])
        np.testing.assert_array_equal(episodes.returns, [6, 4, 18, 17, 33])
    assert episodes.name == "d4rl:hopper-medium-v2"
    assert episodes.reference_scores == (-20.272305, 3234.3)
    assert episodes.environment is not None
    assert (episodes.environment.id, episodes.environment.max_episode_steps) == ("Hopper-v4", 1000)
    assert episodes.action_space == spaces.Box(-1, 1, (3,))


def test_without_next_observations_the_last_observation_is_the_final_one(tmp_path: Path) -> None:
    path = write(tmp_path / "flat.hdf5", terminals=at(4), next_observations=None)
    np.testing.assert_array_equal(load(f"hdf5:{path}").final_observations[:, 0], [4, 11])


def test_without_timeouts_the_task_s_time_limit_cuts(tmp_path: Path) -> None:
    steps = 450
    write(
        tmp_path / "d4rl" / "pen-v0_expert_clipped.hdf5",
        steps,
        terminals=at(129, 349, steps=steps),
        timeouts=None,
    )
    episodes = load("d4rl:pen-expert-v0")
    np.testing.assert_array_equal(episodes.lengths, [100, 30, 100, 100, 20, 100])
    np.testing.assert_array_equal(episodes.terminated, [False, True, False, False, True, False])
    np.testing.assert_array_equal(episodes.truncated, [True, False, True, True, False, True])


def test_without_timeouts_or_limit_a_jump_cuts(tmp_path: Path) -> None:
    following = np.stack([np.arange(1, 13, dtype=np.float32)] * 11, axis=1)
    following[5] = 100
    path = write(tmp_path / "flat.hdf5", timeouts=None, next_observations=following)
    episodes = load(f"hdf5:{path}")
    np.testing.assert_array_equal(episodes.lengths, [6, 6])
    np.testing.assert_array_equal(episodes.final_observations[:, 0], [100, 12])
    assert not episodes.terminated.any()
    assert not episodes.truncated.any()


def test_maze2d_timeouts_mean_goal_reached_not_time_up(tmp_path: Path) -> None:
    write(tmp_path / "d4rl" / "maze2d-umaze-sparse-v1.hdf5", timeouts=at(4, 9))
    episodes = load("d4rl:maze2d-umaze-v1")
    np.testing.assert_array_equal(episodes.lengths, [5, 5, 2])
    assert not episodes.truncated.any()
    assert not episodes.terminated.any()
    assert episodes.environment is None


def test_few_whole_numbers_are_choices_and_bytes_are_images(tmp_path: Path) -> None:
    images = np.arange(12 * 2 * 2 * 3, dtype=np.uint8).reshape(12, 2, 2, 3)
    numbers = np.arange(12) % 3
    path = write(tmp_path / "flat.hdf5", observations=images, next_observations=None, actions=numbers[:, None])
    episodes = load(f"hdf5:{path}")
    assert episodes.action_space == spaces.Discrete(3)
    np.testing.assert_array_equal(episodes.actions, np.eye(3)[numbers])
    np.testing.assert_array_equal(episodes.observations, images.reshape(12, -1))
    assert episodes.observations.dtype == np.uint8


def test_action_bounds_are_those_of_the_recorded_actions(tmp_path: Path) -> None:
    """Take them exactly in a user's file; a D4RL set's bounds reach at least from -1 to 1."""
    for actions in (np.linspace(-0.5, 4, 12), np.linspace(20, 20.01, 12), np.linspace(-1e-3, 0.0, 12)):
        path = write(tmp_path / "flat.hdf5", actions=actions[:, None])
        ends = actions.astype(np.float32)[[0, -1]]
        assert load(f"hdf5:{path}").action_space == spaces.Box(*ends, (1,))
    write(tmp_path / "d4rl" / "hopper_medium-v2.hdf5", actions=np.linspace(-0.5, 4, 36).reshape(12, 3))
    space = load("d4rl:hopper-medium-v2").action_space
    assert space == spaces.Box(np.float32([-1, -1, -1]), np.linspace(-0.5, 4, 36)[-3:].astype(np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"terminals": None}, "no field terminals"),
        ({"actions": np.zeros((11, 3))}, r"actions has \(11,\) rows, rewards has 12"),
        (
            {
                "observations": np.where(np.arange(12)[:, None] == 7, np.nan, np.zeros((12, 11))),
                "terminals": at(4),
                "next_observations": None,
            },
            "flat.hdf5, episode 1, step 2: NaN in observations",
        ),
        ({"rewards": np.full(12, np.inf), "terminals": at(4)}, "episode 0, step 0: infinite value in rewards"),
        ({"next_observations": np.full((12, 11), np.nan)}, "NaN in next_observations"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "flat.hdf5", **fields)
    with pytest.raises(ValueError, match=message) as caught:
        load(f"hdf5:{path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("d4rl:hopper-medum-v2", 'is not a D4RL data set; did you mean "hopper-medium-v2"?'),
        ("d4rl:hopper-medium-v2", "needs hopper_medium-v2.hdf5 in .*: put it there"),
        ("hdf5:nowhere.hdf5", "nowhere.hdf5: no such file"),
    ],
)
def test_missing_files_give_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name)


def test_names_files_scores_and_environments_follow_d4rl() -> None:
    assert FILES["walker2d-medium-replay-v0"] == "walker_mixed.hdf5"
    assert FILES["halfcheetah-medium-expert-v2"] == "halfcheetah_medium_expert-v2.hdf5"
    assert FILES["antmaze-medium-play-v2"] == (
        "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    )
    assert FILES["antmaze-umaze-v0"] == "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5"
    assert FILES["door-cloned-v0"] == "door-demos-v0-bc-combined.hdf5"
    assert reference_scores("maze2d-umaze-dense-v1") == (68.537689, 193.66285642381482)
    assert reference_scores("antmaze-umaze-v2") == (0.0, 1.0)
    assert reference_scores("ant-medium-v2") == (-325.6, 3879.7)
    assert reference_scores("hopping-mad-v0") is None
    ant = environment("ant-medium-v2", 111)
    assert ant is not None
    assert (ant.id, ant.kwargs) == ("Ant-v4", {"use_contact_forces": True})
