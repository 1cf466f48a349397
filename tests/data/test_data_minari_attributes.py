"""Sets from before Minari 0.5, with metadata in HDF5 attributes, and sets without metadata."""

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from test_data_minari import ACTION, BOX, check_aligned, create, folders  # noqa: F401
from test_data_statements import dial  # noqa: F401

from minrl.data import load
from minrl.data.listing import import_file
from minrl.data.space_text import to_json

pytestmark = pytest.mark.usefixtures("folders")
LENGTHS = (3, 1, 250)


def old(name: str, **attributes: Any) -> Path:
    """Write a set with today's Minari and move its metadata to attributes; return the data folder."""
    create(name, LENGTHS)
    data = Path(minari.storage.get_dataset_path(name)) / "data"
    (data / "metadata.json").unlink()
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file.attrs.update(attributes)
    return data


VERSION_4 = {
    "total_episodes": np.int64(3),
    "total_steps": np.int64(254),
    "observation_space": to_json(BOX),
    "action_space": to_json(ACTION),
    "dataset_id": "old-v0",
    "ref_min_score": 1.0,
    "ref_max_score": 9.0,
    "env_spec": json.dumps({"id": "CartPole-v1", "entry_point": "gymnasium.envs.classic_control:CartPoleEnv"}),
}


@pytest.mark.parametrize("form", ["minari:old-v0", "hdf5:{data}", "hdf5:{data}/main_data.hdf5", "hdf5:{data}/.."])
def test_the_attributes_of_version_4_are_read(form: str) -> None:
    data = old("old-v0", **VERSION_4)
    episodes = load(form.format(data=data))
    check_aligned(episodes, LENGTHS)
    assert (episodes.observation_space, episodes.action_space) == (BOX, ACTION)
    assert episodes.reference_scores == (1.0, 9.0)
    assert episodes.environment is not None
    assert episodes.environment.id == "CartPole-v1"


def test_totals_that_are_missing_are_counted_and_any_name_will_do(tmp_path: Path) -> None:
    data = old("old-v0", observation_space=to_json(BOX), action_space=to_json(ACTION))
    shutil.copy(data / "main_data.hdf5", tmp_path / "recordings.hdf5")
    check_aligned(load(f"hdf5:{tmp_path / 'recordings.hdf5'}"), LENGTHS)


class Plane(gymnasium.Env[Any, Any]):
    """Environment with the spaces of the set."""

    observation_space = BOX
    action_space = ACTION


def test_up_to_version_3_the_environment_has_the_spaces() -> None:
    gymnasium.register("Plane-v0", entry_point="test_data_minari_attributes:Plane", disable_env_checker=True)
    try:
        spec = gymnasium.spec("Plane-v0").to_json()
        old("old-v0", env_spec=spec, flatten_observation=np.bool_(True), flatten_action=np.bool_(False))
        check_aligned(load("minari:old-v0"), LENGTHS)
    finally:
        del gymnasium.registry["Plane-v0"]
    with pytest.raises(ValueError, match="which no installed package registers"):
        load("minari:old-v0")


def test_missing_attributes_are_named_with_the_command_that_writes_them() -> None:
    data = old("old-v0")
    renamed = data.parent.rename(data.parent.with_name("lost set-v0")) / "data"
    with pytest.raises(ValueError, match="no attribute observation_space and no action_space or env_spec") as caught:
        load("minari:lost set-v0")
    line = str(caught.value)
    assert "\n" not in line
    assert "delete" not in line
    assert f"minrl data import '{renamed}'" in line
    assert (renamed / "main_data.hdf5").is_file()
    said = {"observation_space": "Box(-inf, inf, (2,), float64)", "action_space": "Box(-1, 1, (1,))"}
    check_aligned(load("minari:lost set-v0", **said), LENGTHS)  # type: ignore[arg-type]


def test_an_import_writes_the_metadata_that_minari_reads() -> None:
    data = old("old-v0")
    imported = import_file(data, "mine/old-v1", observation_space=BOX, action_space=ACTION, environment="CartPole-v1")
    assert imported.name == "minari:mine/old-v1"
    check_aligned(imported, LENGTHS)
    theirs = minari.load_dataset("mine/old-v1")
    assert (theirs.total_episodes, theirs.total_steps) == (3, 254)
    assert theirs.spec.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float64)
    assert theirs.env_spec is not None
    assert theirs.env_spec.id == "CartPole-v1"
    assert sorted(file.name for file in data.iterdir()) == ["main_data.hdf5"], "what was imported is as it was"
