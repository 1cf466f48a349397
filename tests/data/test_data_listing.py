"""`minrl data`: list sets, describe one, import a file."""

import json
from pathlib import Path

import minari
import numpy as np
import pytest
from test_data_d4rl import at, write
from test_data_minari import create, folders  # noqa: F401

from minrl.data import load, make_environment
from minrl.data.listing import describe, import_file, local_datasets

pytestmark = pytest.mark.usefixtures("folders")


def test_all_local_sets_are_listed_by_the_name_that_loads_them(tmp_path: Path) -> None:
    create("a/b/c-v0")
    write(tmp_path / "d4rl" / "hopper_medium-v2.hdf5")
    found = {item.name: item for item in local_datasets()}
    assert {"minari:a/b/c-v0", "d4rl:hopper-medium-v2"} <= set(found)
    assert not found["minari:a/b/c-v0"].shipped
    assert found["minari:a/b/c-v0"].megabytes > 0
    for name in found:
        assert load(name).name == name


def test_description_is_plain_and_right(tmp_path: Path) -> None:
    write(tmp_path / "d4rl" / "hopper_medium-v2.hdf5", terminals=at(2), timeouts=at(7))
    told = json.loads(json.dumps(describe(load("d4rl:hopper-medium-v2"))))
    assert (told["episodes"], told["steps"]) == (3, 12)
    assert (told["terminated"], told["truncated"], told["neither"]) == (1, 1, 1)
    returns = np.array([6.0, 30.0, 42.0])
    assert told["return"] == pytest.approx({"mean": 26, "std": returns.std(), "min": 6, "max": 42})
    assert told["length"]["max"] == 5
    assert told["normalized_mean"] == pytest.approx(100 * (26 + 20.272305) / (3234.3 + 20.272305))
    assert told["environment"] == "Hopper-v4"


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_an_imported_file_is_the_same_set_here_and_in_minari(tmp_path: Path, kind: str) -> None:
    fields = {} if kind == "continuous" else {"actions": np.arange(12) % 4, "observations": np.arange(12) % 5}
    if fields:
        fields["next_observations"] = (np.arange(12) + 1) % 5
    path = write(tmp_path / "my data.hdf5", terminals=at(2), timeouts=at(7), **fields)
    original = load(f"hdf5:{path}", cache=False)
    imported = import_file(path)
    assert imported.name == "minari:imported/my-data-v0"
    for field in ("observations", "actions", "rewards", "final_observations", "offsets", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(imported, field), getattr(original, field), err_msg=field)
    theirs = minari.load_dataset("imported/my-data-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (3, 12)
    assert list(minari.list_local_datasets()) == ["imported/my-data-v0"]
    assert [len(episode.rewards) for episode in theirs] == [3, 5, 4]
    assert theirs[1].truncations.tolist() == [False] * 4 + [True]
    with pytest.raises(ValueError, match="exists already"):
        import_file(path)


def test_a_d4rl_file_keeps_scores_and_environment(tmp_path: Path) -> None:
    path = write(tmp_path / "hopper_medium-v2.hdf5", terminals=at(2))
    imported = import_file(path, "mine/hopper-v3")
    assert imported.name == "minari:mine/hopper-v3"
    assert imported.reference_scores == (-20.272305, 3234.3)
    assert imported.environment is not None
    environment = make_environment(imported.environment)
    assert environment.spec is not None
    assert (environment.spec.id, environment.spec.max_episode_steps) == ("Hopper-v4", 1000)


def test_a_faulty_file_or_name_leaves_no_set(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.hdf5", rewards=np.full(12, np.nan))
    with pytest.raises(ValueError, match="NaN in rewards"):
        import_file(path)
    with pytest.raises(ValueError, match="is not a Minari id"):
        import_file(path, "no version")
    assert list((tmp_path / "sets").iterdir()) == []
