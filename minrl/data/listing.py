"""What `minrl data list | info | import` show and do.

Shapes: N steps and E episodes of a set.
"""

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from minrl.data.d4rl import d4rl_folder, load_file, local_names
from minrl.data.d4rl_table import FILES, reference_scores
from minrl.data.episode import Episodes
from minrl.data.load import load
from minrl.data.minari import SHIPPED, find, local_ids, minari_folder
from minrl.data.spaces import AnySpace, to_json


@dataclass(frozen=True)
class LocalDataset:
    """A set that loads without a network."""

    name: str  # what `load` takes
    path: Path
    megabytes: float
    shipped: bool  # part of the package


def local_datasets() -> list[LocalDataset]:
    """Minari's local sets, those that ship with the package, and D4RL's files, by name."""
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
    """The figures of a set in plain values: sizes, returns, how episodes end, spaces, environment, scores."""
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


def import_file(path: str | Path, name: str | None = None) -> Episodes:
    """Check a flat HDF5 file (as D4RL's) and write it as a local Minari set; returns it as loaded from there.

    `name` is the Minari id, by default `imported/<file name>-v0`. A file that is one of D4RL's keeps its reference
    scores and environment. Raises ValueError for faulty data, a malformed id or one that is taken.
    """
    file = Path(path).expanduser()
    dataset_id = name.removeprefix("minari:") if name else _default_id(file)
    if not re.fullmatch(r"(?:[-_\w]+/)*[-_\w]+-v\d+", dataset_id):
        raise ValueError(f"{dataset_id!r} is not a Minari id, which looks like namespace/name-v0")
    target = minari_folder() / dataset_id
    if target.exists():
        raise ValueError(f"minari:{dataset_id} is there already ({target}): choose another name or delete it")
    task = next((known for known, known_file in FILES.items() if known_file == file.name), "")
    references = reference_scores(task) if task else None
    episodes = load_file(file, f"hdf5:{file}", cache=False, task=task, references=references)
    try:
        _write(episodes, dataset_id, target)
    except OSError as error:
        raise ValueError(f"{target} cannot be written: {error.strerror or error}") from error
    return load(f"minari:{dataset_id}")


def _default_id(file: Path) -> str:
    stem = re.sub(r"[^-_\w]+", "-", file.stem).strip("-") or "set"
    return f"imported/{stem}" if re.search(r"-v\d+$", stem) else f"imported/{stem}-v0"


def _write(episodes: Episodes, dataset_id: str, target: Path) -> None:
    """The set in Minari's HDF5 layout, beside its final place and then renamed."""
    root = minari_folder()
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".import.", dir=root))
    try:
        draft.chmod(0o755)
        data = draft / "data"
        data.mkdir()
        with h5py.File(data / "main_data.hdf5", "w", track_order=True) as main:
            for index in range(episodes.num_episodes):
                _write_episode(main.create_group(f"episode_{index}"), episodes, index)
        (data / "metadata.json").write_text(json.dumps(_metadata(episodes, dataset_id)))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for parent in list(Path(dataset_id).parents)[:-1]:
        namespace = root / parent / "namespace_metadata.json"
        if not namespace.exists():
            namespace.write_text("{}")


def _write_episode(group: h5py.Group, episodes: Episodes, index: int) -> None:
    rows = slice(int(episodes.offsets[index]), int(episodes.offsets[index + 1]))
    steps = rows.stop - rows.start
    final = episodes.final_observations[index : index + 1]
    observations = np.concatenate([episodes.observations[rows], final])
    flags = {"terminations": episodes.terminated, "truncations": episodes.truncated}
    group.attrs.update({"id": index, "total_steps": steps})
    group.create_dataset("observations", data=_unflatten(episodes.observation_space, observations))
    group.create_dataset("actions", data=_unflatten(episodes.action_space, episodes.actions[rows]))
    group.create_dataset("rewards", data=episodes.rewards[rows].astype(np.float64))
    for key, values in flags.items():
        set_at_end = np.zeros(steps, dtype=np.bool_)
        set_at_end[-1] = values[index]
        group.create_dataset(key, data=set_at_end)


def _unflatten(space: AnySpace, flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Flat rows as the space's own samples; flat files have only Box, Discrete and MultiDiscrete."""
    if isinstance(space, spaces.Discrete):
        indices: npt.NDArray[Any] = np.argmax(flat, axis=1).astype(np.int64)
        return indices
    if isinstance(space, spaces.MultiDiscrete):
        cuts = np.cumsum(space.nvec)[:-1]
        return np.stack([np.argmax(part, axis=1) for part in np.split(flat, cuts, axis=1)], axis=1)
    assert space.shape is not None
    samples: npt.NDArray[Any] = flat.reshape(len(flat), *space.shape).astype(space.dtype)
    return samples


def _metadata(episodes: Episodes, dataset_id: str) -> dict[str, Any]:
    import minari

    metadata: dict[str, Any] = {
        "dataset_id": dataset_id,
        "total_episodes": episodes.num_episodes,
        "total_steps": episodes.num_steps,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": to_json(episodes.observation_space),
        "action_space": to_json(episodes.action_space),
        "minari_version": minari.__version__,
        "author": [],
        "author_email": [],
        "dataset_size": 0.0,
    }
    if episodes.environment is not None:
        metadata["env_spec"] = episodes.environment.to_spec()
    if episodes.reference_scores is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = episodes.reference_scores
    return metadata
