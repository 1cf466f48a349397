"""D4RL's sets and other flat HDF5 files of transitions.

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
from minrl.data.convert import Allocate, Arrays, Block, assemble, blocks_of, check_finite, flatten_block
from minrl.data.d4rl_table import FILES, environment, reference_scores, time_limit
from minrl.data.download import download_file
from minrl.data.episode import BoolArray, Episodes, IntArray
from minrl.data.minari import nearest
from minrl.data.minari_hdf5 import open_hdf5
from minrl.data.spaces import AnySpace, Leaf, as_rows, leaves
from minrl.extras import install_hint


@dataclass(frozen=True)
class Infos:
    """The tables of an installed `d4rl` package; empty where it is not installed."""

    addresses: dict[str, str] = field(default_factory=dict)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)


def d4rl_folder() -> Path:
    """$D4RL_DATASET_DIR, else D4RL's own ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")


def package_infos() -> Infos:
    """Addresses and scores from `d4rl/infos.py` alone: importing the package itself needs mujoco_py."""
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
    """The D4RL sets whose files lie in D4RL's folder."""
    return sorted(name for name, file in FILES.items() if (d4rl_folder() / file).is_file())


def load_d4rl(name: str, *, cache: bool, download: bool) -> Episodes:
    """A set by its D4RL name; raises ValueError, one line, when it is unknown, missing or faulty."""
    infos = package_infos()
    file = _file(name, infos)
    if not file.is_file():
        _fetch(name, file, infos, download=download)
    references = (infos.low[name], infos.high[name]) if name in infos.high else reference_scores(name)
    return load_file(file, f"d4rl:{name}", cache=cache, task=name, references=references)


def _file(name: str, infos: Infos) -> Path:
    plain = d4rl_folder() / f"{name}.hdf5"
    if name in infos.addresses:
        return d4rl_folder() / infos.addresses[name].rsplit("/", 1)[-1]
    if name in FILES and not plain.is_file():
        return d4rl_folder() / FILES[name]
    if name in FILES or plain.is_file():
        return plain
    close = nearest(name, sorted({*FILES, *infos.addresses})).split("local sets")[0]
    here = ", ".join(local_names()) or "none"
    raise ValueError(f"d4rl:{name} is not a D4RL data set; {close}local sets in {d4rl_folder()}: {here}")


def _fetch(name: str, file: Path, infos: Infos, *, download: bool) -> None:
    here = f"d4rl:{name} needs {file.name} in {file.parent}, which is not there"
    if name not in infos.addresses:
        raise ValueError(
            f"{here}: put it there, set D4RL_DATASET_DIR, or {install_hint('d4rl')} for the address to fetch it from"
        )
    if not download:
        raise ValueError(f"{here}, and downloading is off")
    try:
        download_file(infos.addresses[name], file)
    except ValueError as error:
        raise ValueError(f"{here}: {error}") from error


def load_file(
    file: Path, name: str, *, cache: bool, task: str = "", references: tuple[float, float] | None = None
) -> Episodes:
    """A flat HDF5 file: observations, actions, rewards, terminals, and timeouts and next_observations if it has them.

    Spaces are inferred: whole numbers are Discrete or MultiDiscrete, bytes are images, all else is a Box.
    `task` is the D4RL name, which tells the time limit and the environment. Raises ValueError naming a fault's place.
    """
    with open_hdf5(file) as source:
        _check_fields(source, file)
        observation_space = _infer(source["observations"])
        action_space = _infer(source["actions"])
    arrays = cached(
        fingerprint([file], task),
        lambda allocate: _convert(file, task, observation_space, action_space, allocate),
        enabled=cache,
    )
    if isinstance(action_space, spaces.Box):
        action_space = _bounds(action_space, arrays["actions"])
    return Episodes(
        name=name,
        observation_space=observation_space,
        action_space=action_space,
        environment=environment(task, arrays["observations"].shape[1]),
        reference_scores=references,
        **arrays,
    )


def _check_fields(source: h5py.File, file: Path) -> None:
    for key in ("observations", "actions", "rewards", "terminals"):
        if not isinstance(source.get(key), h5py.Dataset):
            held = ", ".join(sorted(source)[:12]) or "nothing"
            raise ValueError(
                f"{file}: no field {key}; a flat HDF5 set has observations, actions, rewards, terminals "
                f"and may have timeouts and next_observations (this file has {held})"
            )
    steps = source["rewards"].shape[0] if source["rewards"].shape else 0
    for key in ("observations", "actions", "terminals", "timeouts", "next_observations"):
        if key in source and source[key].shape[:1] != (steps,):
            raise ValueError(f"{file}: {key} has {source[key].shape[:1]} rows, rewards has {steps}")
    if steps == 0:
        raise ValueError(f"{file}: no steps")


def _infer(data: h5py.Dataset) -> AnySpace:
    shape = data.shape[1:]
    if data.dtype == np.uint8 and len(shape) >= 2:
        return spaces.Box(0, 255, shape, np.uint8)
    if np.issubdtype(data.dtype, np.integer):
        sizes = np.max(data[()].reshape(len(data), -1), axis=0) + 1
        sizes = np.maximum(sizes.astype(np.int64), 1)
        return spaces.Discrete(int(sizes[0])) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)
    return spaces.Box(-np.inf, np.inf, shape or (1,), np.float32)


def _bounds(space: spaces.Box, actions: npt.NDArray[Any]) -> spaces.Box:
    """[-1, 1], D4RL's own, or as far as the recorded actions go beyond it."""
    low = np.minimum(actions.min(axis=0), -1.0).reshape(space.shape)
    high = np.maximum(actions.max(axis=0), 1.0).reshape(space.shape)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _convert(file: Path, task: str, observation_space: AnySpace, action_space: AnySpace, allocate: Allocate) -> Arrays:
    with open_hdf5(file) as source:
        lengths, terminated, truncated = split(source, task)
        widths = leaves(observation_space)[-1].columns.stop, leaves(action_space)[-1].columns.stop
        blocks = _blocks(source, str(file), lengths, terminated, truncated, observation_space, action_space)
        return assemble(
            blocks,
            steps=int(lengths.sum()),
            episodes=len(lengths),
            widths=widths,
            where=str(file),
            allocate=allocate,
        )


def split(source: h5py.File, task: str) -> tuple[IntArray, BoolArray, BoolArray]:
    """Lengths (E,), terminated (E,), truncated (E,) from a file's flags; a piece after the last flag has neither.

    Without `timeouts` the task's time limit cuts, or else a jump from next_observations to the next row. In maze2d
    `timeouts` marks that the goal was reached while the walk goes on, so such an episode has neither flag.
    """
    terminals = source["terminals"][()].reshape(-1).astype(np.bool_)
    steps = len(terminals)
    limit = time_limit(task)
    timeouts = np.zeros(steps, dtype=np.bool_)
    ends = terminals.copy()
    if "timeouts" in source:
        timeouts = source["timeouts"][()].reshape(-1).astype(np.bool_)
        ends |= timeouts
    elif limit is not None:
        timeouts = _time_limit_ends(terminals, limit)
        ends |= timeouts
    elif "next_observations" in source:
        jump = source["observations"][1:] != source["next_observations"][:-1]
        ends[:-1] |= jump.reshape(steps - 1, -1).any(axis=1)
    ends[-1] = True
    last = np.flatnonzero(ends)
    goal_reached = task.startswith("maze2d")
    return np.diff(last, prepend=-1), terminals[last], timeouts[last] & (not goal_reached)


def _time_limit_ends(terminals: BoolArray, limit: int) -> BoolArray:
    """Every `limit`-th step since the last terminal one that is not terminal itself."""
    steps = np.arange(len(terminals))
    starts = np.concatenate([[True], terminals[:-1]])
    begun = np.maximum.accumulate(np.where(starts, steps, 0))
    ends: BoolArray = ((steps - begun) % limit == limit - 1) & ~terminals
    return ends


def _blocks(
    source: h5py.File,
    where: str,
    lengths: IntArray,
    terminated: BoolArray,
    truncated: BoolArray,
    observation_space: AnySpace,
    action_space: AnySpace,
) -> Iterator[Block]:
    stops = np.cumsum(lengths)
    row_bytes = 4 * (leaves(observation_space)[-1].columns.stop + leaves(action_space)[-1].columns.stop)
    for first, last in blocks_of(lengths, row_bytes):
        rows = slice(int(stops[first] - lengths[first]), int(stops[last - 1]))
        inside = lengths[first:last]
        place: Any = {"where": where, "first": first}

        def read(key: str, leaf: Leaf, rows: slice = rows) -> Any:
            return as_rows(leaf, source[key][rows])

        observations = flatten_block(
            observation_space, lambda leaf: read("observations", leaf), inside, field="observations", **place
        )
        actions = flatten_block(action_space, lambda leaf: read("actions", leaf), inside, field="actions", **place)
        rewards = source["rewards"][rows].reshape(-1).astype(np.float32)
        check_finite(rewards, inside, field="rewards", **place)
        final = observations[np.cumsum(inside) - 1]
        if "next_observations" in source:
            # One read of all rows and a pick is faster than h5py's read of scattered rows.
            following = flatten_block(
                observation_space,
                lambda leaf: read("next_observations", leaf),
                inside,
                field="next_observations",
                **place,
            )
            final = following[np.cumsum(inside) - 1]
        yield Block(inside, observations, final, actions, rewards, terminated[first:last], truncated[first:last])
