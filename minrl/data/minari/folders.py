"""Folders of Minari's sets: finding them, and making a new one that appears under its name when complete."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from minrl.data.space_text import to_json
from minrl.data.spaces import AnySpace
from minrl.system.digests import with_digest
from minrl.system.drafts import draft_folder
from minrl.system.files import flush, make_folder
from minrl.system.folders import walk

SHIPPED = Path(__file__).parent.parent / "shipped"
MAIN = "main_data.hdf5"
# Entries of metadata.json that Minari changes where it appends episodes; they are compared with the data.
TOTALS = frozenset({"total_episodes", "total_steps", "dataset_size"})
_ID = re.compile(r"(?:[-_\w]+/)*[-_\w]+-v\d+")


def minari_folder() -> Path:
    """Return $MINARI_DATASETS_PATH, else Minari's own ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def find(dataset_id: str) -> Path | None:
    """Return the folder of a local set, else of one that ships with the package; None if there is neither."""
    return next(
        (root / dataset_id for root in (minari_folder(), SHIPPED) if (root / dataset_id / "data").is_dir()),
        None,
    )


def local_ids() -> list[str]:
    """List every set that `minari:` finds without a network."""
    return sorted({found for root in (minari_folder(), SHIPPED) for found in _ids(root)})


def _ids(root: Path) -> Iterator[str]:
    for place, folders, _ in walk(root):
        if place != root and "data" in folders:
            yield place.relative_to(root).as_posix()
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]


def check_id(dataset_id: str) -> None:
    """Raise ValueError for a malformed Minari id."""
    if not _ID.fullmatch(dataset_id):
        raise ValueError(
            f"{dataset_id!r} is not a Minari id, which reads [namespace/]name-v0, such as hopper/mine-v0 (letters, "
            "digits, _ and -)"
        )


class NewSet:
    """Context manager for the folder of a new set: hidden under Minari's root, moved to its name on success.

    Args:
        dataset_id: Minari's id, `[namespace/]name-v0`.
        overwrite: replace a set of this name; it stays in place until the new one is complete.

    Attributes:
        target: the set's folder once complete.
        data: the folder to write to.
        scratch: a folder for files that are not kept.

    Raises:
        ValueError: for a malformed id, or one that is taken.
    """

    def __init__(self, dataset_id: str, *, overwrite: bool = False) -> None:
        check_id(dataset_id)
        self.target = minari_folder() / dataset_id
        self._kept = ExitStack()
        if (self.target / "data").is_dir() and not overwrite:
            raise ValueError(f"data set minari:{dataset_id} exists already in {self.target}; choose another name")
        if self.target.exists() and not (self.target / "data").is_dir():
            raise ValueError(f"{self.target} exists and is no data set; choose another name")

    def __enter__(self) -> NewSet:
        root = minari_folder()
        make_folder(root)
        # Minari skips names that begin with a dot.
        self._draft = self._kept.enter_context(draft_folder(root, ".new-"))
        self.data, self.scratch = self._draft / "set" / "data", self._draft / "scratch"
        self.data.mkdir(parents=True)
        self.scratch.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._kept:
            if kind is None:
                self._publish()
                flush(self.target.parent)

    def write_metadata(self, metadata: Mapping[str, Any], *, episodes: int, steps: int) -> None:
        """Write metadata.json, with the counts and the size of the files written so far."""
        size = sum(file.stat().st_size for file in self.data.iterdir())
        totals = {"total_episodes": episodes, "total_steps": steps, "dataset_size": round(size / 1e6, 1)}
        (self.data / "metadata.json").write_text(json.dumps({**with_digest(metadata), **totals}))

    def _publish(self) -> None:
        _make_namespaces(self.target.parent)
        replaced = self._draft / "replaced"
        try:
            if self.target.exists():
                self.target.rename(replaced)
            (self._draft / "set").rename(self.target)
        except BaseException:
            if replaced.exists() and not self.target.exists():
                replaced.rename(self.target)
            raise


def _make_namespaces(folder: Path) -> None:
    """Make the folders between Minari's root and a set, each with the file that marks it as a namespace."""
    folder.mkdir(parents=True, exist_ok=True)
    while folder != minari_folder():
        marker = folder / "namespace_metadata.json"
        if not marker.exists():
            marker.write_text("{}")
        folder = folder.parent


def set_metadata(dataset_id: str, observation_space: AnySpace, action_space: AnySpace) -> dict[str, Any]:
    """Return the entries of metadata.json that every set has, except for its size."""
    import minari

    return {
        "dataset_id": dataset_id,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": to_json(observation_space),
        "action_space": to_json(action_space),
        "minari_version": minari.__version__,
    }
