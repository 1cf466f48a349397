"""Folders that link to themselves, to each other or to the root of the file system are each entered once."""

import json
from pathlib import Path

import pytest
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.runs.dashboard import RunLinks
from minrl.system import folders
from minrl.system.folders import walk

__all__ = ["cartpole", "own_folders"]


def tangle(root: Path) -> None:
    """Add links from `root` to itself, to its parents, to /, to each other and to nowhere."""
    (root / "a/b").mkdir(parents=True, exist_ok=True)
    links = {
        "self": root, "a/up": root, "a/b/top": root.parent, "everything": Path("/"),
        "a/b/there": root / "a", "loop": root / "loop", "nowhere": root / "gone",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)


def test_each_real_folder_is_entered_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    tangle(root)
    (elsewhere / "inner").mkdir(parents=True)
    (root / "linked").symlink_to(elsewhere)
    places = [str(place.relative_to(root)) for place, _, _ in walk(root)]
    assert places == [".", "a", "a/b", "linked", "linked/inner"]


def test_depth_and_linked_folders_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, deep = tmp_path / "root", tmp_path / "deep"
    inside = root.joinpath(*["x"] * 40)
    inside.mkdir(parents=True)
    assert sum(1 for _ in walk(root)) == folders.DEEPEST + 1
    for index in range(30):
        (deep / str(index)).mkdir(parents=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "links/deep").symlink_to(deep)
    monkeypatch.setattr(folders, "MOST_LINKED", 10)
    assert sum(1 for _ in walk(tmp_path / "links")) == 11


def test_data_list_ends(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tangle(tmp_path / "minari")
    assert main(["data", "list", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names.count(cartpole) == 1


def test_the_dashboard_starts(tmp_path: Path) -> None:
    runs, into = tmp_path / "runs", tmp_path / "links"
    tangle(runs)
    (runs / "a/b/events.out.tfevents.1.host").touch()
    into.mkdir()
    assert list(RunLinks(runs, into).runs) == ["a/b"]
