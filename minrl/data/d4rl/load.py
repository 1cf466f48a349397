"""Loading of D4RL's data sets and other flat HDF5 files of transitions.

Shapes: N steps of the whole file, E episodes, O and A flat widths.
"""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from minrl.data.cache import cached, fingerprint
from minrl.data.convert import (
    Allocate,
    Arrays,
    EpisodeBlock,
    Place,
    assemble,
    check_finite,
    checked_block_masks,
    flatten_block,
)
from minrl.data.d4rl.episodes import Segment, report, segments, split
from minrl.data.d4rl.spaces import Stated, settle
from minrl.data.d4rl.table import FILES, environment, reference_scores
from minrl.data.download import download_file
from minrl.data.episode import BoolArray, Episodes, IntArray
from minrl.data.hdf5_file import attributes_of, check_stored, open_hdf5, rows_of
from minrl.data.limits import check_size
from minrl.data.masks.action_masks import mask_size
from minrl.data.space_text import to_json
from minrl.data.spaces import AnySpace, as_rows, block_dtype, leaves
from minrl.system.extras import install_hint
from minrl.system.messages import faults_of
from minrl.system.names import did_you_mean

FIELDS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


@dataclass(frozen=True)
class Infos:
    """Tables of an installed `d4rl` package; empty if it is not installed."""

    addresses: dict[str, str] = field(default_factory=dict)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)


def d4rl_folder() -> Path:
    """Return $D4RL_DATASET_DIR, else D4RL's own ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")


def package_infos() -> Infos:
    """Read addresses and scores from `d4rl/infos.py` alone, as importing the package needs mujoco_py."""
    found = importlib.util.find_spec("d4rl")
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder) / "infos.py"
        spec = importlib.util.spec_from_file_location("_d4rl_infos", file)
        if file.is_file() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return Infos(dict(module.DATASET_URLS), dict(module.REF_MIN_SCORE), dict(module.REF_MAX_SCORE))
    return Infos()


def local_names() -> list[str]:
    """List the D4RL sets whose files lie in D4RL's folder."""
    return sorted(name for name, file in FILES.items() if (d4rl_folder() / file).is_file())


def load_d4rl(name: str, *, cache: bool, download: bool, given: Stated | None = None) -> Episodes:
    """Load a set by its D4RL name; raise ValueError, one line, if it is unknown, missing or faulty."""
    infos = package_infos()
    file = _file(name, infos)
    if not file.is_file():
        _fetch(name, file, infos, download=download)
    references = (infos.low[name], infos.high[name]) if name in infos.high else reference_scores(name)
    return load_file(file, f"d4rl:{name}", cache=cache, task=name, references=references, given=given)


def _file(name: str, infos: Infos) -> Path:
    plain = d4rl_folder() / f"{name}.hdf5"
    if name in infos.addresses:
        return d4rl_folder() / infos.addresses[name].rsplit("/", 1)[-1]
    if name in FILES and not plain.is_file():
        return d4rl_folder() / FILES[name]
    if name in FILES or plain.is_file():
        return plain
    close = did_you_mean(name, {*FILES, *infos.addresses})
    here = f"local sets in {d4rl_folder()}: {', '.join(local_names()) or 'none'}"
    raise ValueError(f"d4rl:{name} is not a D4RL data set; {close} {here}".replace(";  ", "; "))


def _fetch(name: str, file: Path, infos: Infos, *, download: bool) -> None:
    here = f"d4rl:{name} needs {file.name} in {file.parent}, which is not there"
    if name not in infos.addresses:
        raise ValueError(
            f"{here}: put it there, set D4RL_DATASET_DIR, or {install_hint('d4rl')} for its download address"
        )
    if not download:
        raise ValueError(f"{here}, and downloading is off")
    try:
        download_file(infos.addresses[name], file)
    except ValueError as error:
        raise ValueError(f"{here}: {error}") from error


def load_file(
    file: Path,
    name: str,
    *,
    cache: bool,
    task: str = "",
    references: tuple[float, float] | None = None,
    given: Stated | None = None,
    folder: Path | None = None,
) -> Episodes:
    """Load a flat HDF5 file: observations, actions, rewards, terminals, and optional timeouts and next_observations.

    `given` holds the user's spaces, or the environment that has them, in place of the file's attributes. Without
    either, spaces are guessed and the guess is logged. `task` is the D4RL name, from which time limit and environment
    follow; `folder` takes the converted arrays in place of the cache. Raises ValueError with the place of a fault.
    """
    with faults_of(str(file)), open_hdf5(file) as source:
        _check_fields(source, file)
        found = settle(source, file, given or Stated(), silent=bool(task))
        assert found.observation_space is not None
        assert found.action_space is not None
        spaces_found = found.observation_space, found.action_space
        arrays = cached(
            fingerprint([file], task, *map(to_json, spaces_found), *masks_in(source)),
            lambda allocate: _convert(source, file, task, *spaces_found, allocate),
            enabled=cache,
            folder=folder,
        )
        report(source, file, task, arrays)
        references = _references(source, references)
    observation_space, action_space = spaces_found
    if "action" in found.guessed and isinstance(action_space, spaces.Box) and not action_space.is_bounded():
        action_space = _bounds(action_space, arrays["actions"], 1.0 if task else None)
    return Episodes(
        name=name,
        observation_space=observation_space,
        action_space=action_space,
        environment=found.environment or environment(task, arrays["observations"].shape[1]),
        reference_scores=references,
        **arrays,
    )


def _references(source: h5py.File, known: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the returns that score 0 and 100: those known of the task, else the file's own."""
    keys = "ref_min_score", "ref_max_score"
    found = {} if known is not None else attributes_of(source, keys)
    return (float(found[keys[0]]), float(found[keys[1]])) if len(found) == 2 else known


def masks_in(source: h5py.File) -> list[str]:
    """Return the key of a file's action masks, none if it has none."""
    return [key for key in ("action_masks", "infos/action_masks") if key in source][:1]


def _check_fields(source: h5py.File, file: Path) -> None:
    for key in ("observations", "actions", "rewards", "terminals"):
        if not isinstance(source.get(key), h5py.Dataset):
            held = ", ".join(sorted(source)[:12]) or "nothing"
            raise ValueError(
                f"{file}: no field {key}; a flat HDF5 set has observations, actions, rewards, terminals "
                f"and may have timeouts and next_observations (this file has {held})"
            )
    for key in (*FIELDS, *masks_in(source)):
        if key in source:
            if not isinstance(source[key], h5py.Dataset):
                raise ValueError(f"{file}: {key} is no array")
            check_stored(source[key].id, f"{file}: {key}")
    steps = source["rewards"].shape[0] if source["rewards"].shape else 0
    for key in ("observations", "actions", "terminals", "timeouts", "next_observations", *masks_in(source)):
        if key in source and source[key].shape[:1] != (steps,):
            raise ValueError(f"{file}: {key} has {source[key].shape[:1]} rows, rewards has {steps}")
    if steps == 0:
        raise ValueError(f"{file}: no steps")


def _bounds(space: spaces.Box, actions: npt.NDArray[Any], least: float | None) -> spaces.Box:
    """Return a Box as far as the recorded actions go, at least from -`least` to `least` (D4RL's own range is 1)."""
    low, high = actions.min(axis=0).reshape(space.shape), actions.max(axis=0).reshape(space.shape)
    if least is not None:
        low, high = np.minimum(low, -least), np.maximum(high, least)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _convert(
    source: h5py.File,
    file: Path,
    task: str,
    observation_space: AnySpace,
    action_space: AnySpace,
    allocate: Allocate,
) -> Arrays:
    # First in one episode, as finding their ends takes memory too.
    check_size(len(source["rewards"]), 1, observation_space, action_space, [file], str(file))
    lengths, terminated, truncated = split(source, task)
    check_size(int(lengths.sum()), len(lengths), observation_space, action_space, [file], str(file))
    return assemble(
        lambda: _blocks(source, str(file), lengths, terminated, truncated, observation_space, action_space),
        steps=int(lengths.sum()),
        episodes=len(lengths),
        observation_space=observation_space,
        action_space=action_space,
        where=str(file),
        allocate=allocate,
    )


def _blocks(
    source: h5py.File,
    where: str,
    lengths: IntArray,
    terminated: BoolArray,
    truncated: BoolArray,
    observation_space: AnySpace,
    action_space: AnySpace,
) -> Iterator[EpisodeBlock]:
    dtype = block_dtype(observation_space)
    stored = [source[key] for key in ("observations", "actions")]
    row_bytes = sum(max(4, data.dtype.itemsize) * int(np.prod(data.shape[1:], dtype=np.int64)) for data in stored)
    row_bytes += 4 * (leaves(observation_space)[-1].columns.stop + leaves(action_space)[-1].columns.stop)
    for segment in segments(lengths, row_bytes):
        place = Place(where, segment.first, segment.step)

        def read(
            key: str, space: AnySpace, kept: npt.DTypeLike | None, at: Segment = segment, place: Place = place
        ) -> npt.NDArray[Any]:
            rows = at.rows
            return flatten_block(
                space,
                lambda leaf: as_rows(leaf, rows_of(source, key, rows)),
                at.lengths,
                field=key,
                place=place,
                dtype=kept,
            )

        observations = read("observations", observation_space, dtype)
        actions = read("actions", action_space, None)
        rewards = rows_of(source, "rewards", segment.rows).reshape(-1).astype(np.float32)
        check_finite(rewards, segment.lengths, field="rewards", place=place)
        final = observations[segment.stops - 1]
        if "next_observations" in source:
            # Reading all rows and indexing is faster than h5py's read of scattered rows.
            final = read("next_observations", observation_space, dtype)[segment.stops - 1]
        ended, masks = segment.episodes, None
        for key in masks_in(source)[: mask_size(action_space)]:
            found = rows_of(source, key, segment.rows)
            if found.size != len(rewards) * mask_size(action_space):
                raise ValueError(
                    f"{where}: {key} has {found.shape[1:]} flags a step, expected {mask_size(action_space)}"
                )
            masks = checked_block_masks(action_space, found, actions, segment.lengths, place)
        ends = terminated[ended], truncated[ended]
        yield EpisodeBlock(segment.stops, observations, final, actions, rewards, *ends, masks)
