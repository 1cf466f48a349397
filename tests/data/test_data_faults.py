"""Each fault of a Minari set is one line that names file, episode and field."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from test_data_minari import create, edit, folders  # noqa: F401

from minrl.data import load

pytestmark = pytest.mark.usefixtures("folders")


def replace(group: Any, field: str, values: Any) -> None:
    del group[field]
    group.create_dataset(field, data=values)


def set_value(field: str, index: Any, value: Any) -> Any:
    def change(file: h5py.File) -> None:
        file["episode_2"][field][index] = value

    return change


FAULTS = {
    "NaN in observations": (set_value("observations", (7, 1), np.nan), r"episode 2, step 7: NaN in observations"),
    "NaN at the end": (set_value("observations", (250, 0), np.nan), r"episode 2, step 250: NaN in observations"),
    "infinite action": (set_value("actions", (3, 0), np.inf), r"episode 2, step 3: infinite value in actions"),
    "NaN in rewards": (set_value("rewards", 9, np.nan), r"episode 2, step 9: NaN in rewards"),
    "too large": (set_value("observations", (1, 0), 1e60), r"episode 2, step 1: infinite value in observations"),
    "early flag": (set_value("terminations", 5, True), r"episode 2, step 5: terminations is set before the ep"),
    "one observation too few": (
        lambda file: replace(file["episode_2"], "observations", np.zeros((250, 2))),
        r"episode 2: observations has 250 rows, expected 251",
    ),
    "one action too many": (
        lambda file: replace(file["episode_1"], "actions", np.zeros((2, 1))),
        r"episode 1: actions has 2 rows, expected 1",
    ),
    "other width": (
        lambda file: replace(file["episode_2"], "observations", np.zeros((251, 3))),
        r"episode 2: observations has shape \(251, 3\), the declared space has 2",
    ),
    "no steps": (
        lambda file: replace(file["episode_1"], "rewards", np.zeros(0)),
        r"episode 1: no steps in rewards",
    ),
    "fewer steps than the metadata": (
        lambda file: [
            replace(file["episode_2"], field, file["episode_2"][field][:-1])
            for field in ("observations", "actions", "rewards", "terminations", "truncations")
        ],
        r"holds 3 episodes with 253 steps, the metadata says 3 with 254",
    ),
    "missing field": (lambda file: file["episode_2"].pop("truncations"), r"episode 2: truncations is missing"),
    "missing episode": (lambda file: file.pop("episode_1"), r"holds 2 episodes, .* total_episodes = 3"),
    "not numbers": (
        lambda file: replace(file["episode_2"], "actions", [b"left"] * 250),
        r"episode 2: actions cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_place(fault: str, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    create("faulty-v0")
    path = edit("faulty-v0", change)
    with pytest.raises(ValueError, match=message) as caught:
        load("minari:faulty-v0")
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value)
    assert not list((tmp_path / "cache").glob("*")), "nothing half-converted stays behind"


def test_an_index_outside_its_space_is_named() -> None:
    create("index-v0")
    edit("index-v0", lambda file: [replace(e, "actions", np.arange(len(e["rewards"]))) for e in file.values()])
    metadata = minari.storage.get_dataset_path("index-v0") / "data" / "metadata.json"
    raw = json.loads(metadata.read_text())
    raw["action_space"] = '{"type": "Discrete", "n": 200, "start": 0, "dtype": "int64"}'
    raw.pop("crc32", None)
    metadata.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"episode 2, step 200: \[200\] outside the declared space in actions"):
        load("minari:index-v0")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_one_line(keep: float) -> None:
    create("cut-v0")
    path = minari.storage.get_dataset_path("cut-v0") / "data" / "main_data.hdf5"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(ValueError, match=r"main_data.hdf5: (a truncated|not a readable) HDF5 file") as caught:
        load("minari:cut-v0")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "data_format"), [("main_data.hdf5", "hdf5"), ("metadata.json", "arrow")])
def test_a_missing_file_is_named_without_advice_to_delete(file: str, data_format: str) -> None:
    create("missing-v0", data_format=data_format)
    (minari.storage.get_dataset_path("missing-v0") / "data" / file).unlink()
    with pytest.raises(ValueError, match=f"{file} is missing: the set is incomplete") as caught:
        load("minari:missing-v0")
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_an_arrow_set_without_an_episode_is_refused(data_format: str) -> None:
    create("gap-v0", data_format=data_format)
    shutil.rmtree(minari.storage.get_dataset_path("gap-v0") / "data" / "1")
    with pytest.raises(ValueError, match="data/1 is missing"):
        load("minari:gap-v0")
