"""Local data sets: listing, describing, and importing a file as a Minari set.

Shapes: N steps and E episodes of a set.
"""

import re
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.data.d4rl.load import d4rl_folder, load_file, local_names
from minrl.data.d4rl.spaces import Stated, stated
from minrl.data.d4rl.table import FILES, reference_scores
from minrl.data.environment import EnvironmentInfo
from minrl.data.episode import Episodes
from minrl.data.load import is_minari, load, main_file
from minrl.data.minari.folders import MAIN, SHIPPED, NewSet, find, local_ids, set_metadata
from minrl.data.minari.load import load_folder
from minrl.data.minari.writer import EpisodeWriter
from minrl.data.spaces import AnySpace


@dataclass(frozen=True)
class LocalDataset:
    """Data set that loads without a network."""

    name: str  # for `load`
    path: Path
    megabytes: float
    shipped: bool  # part of the package


def local_datasets() -> list[LocalDataset]:
    """List Minari's local sets, those that ship with the package, and D4RL's files."""
    found = []
    for dataset_id in local_ids():
        folder = find(dataset_id)
        assert folder is not None
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found.append(LocalDataset(f"minari:{dataset_id}", folder, size / 1e6, folder.is_relative_to(SHIPPED)))
    for name in local_names():
        file = d4rl_folder() / FILES[name]
        found.append(LocalDataset(f"d4rl:{name}", file, file.stat().st_size / 1e6, shipped=False))
    return found


def describe(episodes: Episodes) -> dict[str, Any]:
    """Describe a set in plain values: sizes, returns, how episodes end, spaces, environment, scores."""
    returns, lengths = episodes.returns, episodes.lengths
    open_ended = ~(np.asarray(episodes.terminated) | np.asarray(episodes.truncated))
    scores = episodes.reference_scores
    return {
        "name": episodes.name,
        "episodes": episodes.num_episodes,
        "steps": episodes.num_steps,
        "return": _figures(returns),
        "length": _figures(lengths),
        "terminated": int(np.sum(episodes.terminated)),
        "truncated": int(np.sum(episodes.truncated)),
        "neither": int(open_ended.sum()),
        "observation_space": str(episodes.observation_space),
        "action_space": str(episodes.action_space),
        "observation_width": int(episodes.observations.shape[1]),
        "action_width": int(episodes.actions.shape[1]),
        "environment": None if episodes.environment is None else episodes.environment.id,
        "reference_scores": None if scores is None else list(scores),
        "normalized_mean": None if scores is None else episodes.normalized_score(float(returns.mean())),
        "normalized_max": None if scores is None else episodes.normalized_score(float(returns.max())),
    }


def _figures(values: npt.NDArray[Any]) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def import_file(
    path: str | Path,
    name: str | None = None,
    *,
    observation_space: AnySpace | str | None = None,
    action_space: AnySpace | str | None = None,
    environment: EnvironmentInfo | str | None = None,
) -> Episodes:
    """Check a flat HDF5 file (as D4RL's) and write it as a local Minari set; return it as loaded from there.

    A set in Minari's own layout, as before version 0.5, is copied and gets a metadata.json.

    Args:
        path: the file, or the folder of a Minari set.
        name: the Minari id, by default `imported/<file name>-v0`.
        observation_space, action_space, environment: as for `load`; the environment goes into the set's metadata. A
            D4RL's own file keeps its reference scores and environment.

    Raises:
        ValueError: for faulty data, a malformed id or one that is taken, a space that does not fit, or an
            environment that cannot be made.
    """
    file = main_file(Path(path).expanduser())
    dataset_id = name.removeprefix("minari:") if name else _default_id(file)
    new_set = NewSet(dataset_id)
    given = stated(observation_space, action_space, environment)
    try:
        with new_set:
            _fill(new_set, file, given, dataset_id)
    except OSError as error:
        raise ValueError(f"{new_set.target} cannot be written: {error.strerror or error}") from error
    return load(f"minari:{dataset_id}")


def _fill(new_set: NewSet, file: Path, given: Stated, dataset_id: str) -> None:
    """Write the set's files in constant memory."""
    scratch = new_set.scratch
    if is_minari(file):
        episodes = load_folder(file.parent, f"hdf5:{file}", cache=False, given=given, file=file.name, folder=scratch)
        for part in sorted(file.parent.glob("*.hdf5")) if file.name == MAIN else [file]:
            shutil.copyfile(part, new_set.data / (MAIN if part == file else part.name))
    else:
        task = next((known for known, known_file in FILES.items() if known_file == file.name), "")
        references = reference_scores(task) if task else None
        episodes = load_file(
            file, f"hdf5:{file}", cache=False, task=task, references=references, given=given, folder=scratch
        )
        spaces = episodes.observation_space, episodes.action_space
        with closing(EpisodeWriter(new_set.data / MAIN, *spaces)) as writer:
            for index in range(episodes.num_episodes):
                writer.copy(episodes, index)
    metadata = set_metadata(dataset_id, episodes.observation_space, episodes.action_space)
    if episodes.environment is not None:
        metadata["env_spec"] = episodes.environment.to_spec()
    if episodes.reference_scores is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = episodes.reference_scores
    new_set.write_metadata(metadata, episodes=episodes.num_episodes, steps=episodes.num_steps)


def _default_id(file: Path) -> str:
    file = file.absolute().parent if file.name == "data" else file
    stem = re.sub(r"[^-_\w]+", "-", file.stem).strip("-") or "set"
    return f"imported/{stem}" if re.search(r"-v\d+$", stem) else f"imported/{stem}-v0"
