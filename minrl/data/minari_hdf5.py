"""Minari's HDF5 storage, read straight into flat arrays.

One group per episode; a set of short episodes has tens of thousands of small arrays, so the reader uses h5py's
low-level calls, goes through the file once, and reads each array into its place.
Shapes: n steps and e episodes of one block, W numbers stored for one step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from h5py import h5d, h5s, h5t

from minrl.data.convert import BLOCK_BYTES, Block, ReadLeaf, check_finite, flatten_block, last_flags, split_final
from minrl.data.images import decode_frames, is_image
from minrl.data.spaces import AnySpace, Leaf, as_rows, leaves

_MEMORY_TYPES = {
    np.dtype(np.float32): h5t.NATIVE_FLOAT,
    np.dtype(np.float64): h5t.NATIVE_DOUBLE,
    np.dtype(np.int64): h5t.NATIVE_INT64,
    np.dtype(np.bool_): h5t.NATIVE_UINT8,
}
_memory_space = lru_cache(maxsize=4096)(lambda count: h5s.create_simple((count,)))


def read_hdf5(path: Path, observation_space: AnySpace, action_space: AnySpace, *, episodes: int) -> Iterator[Block]:
    """The blocks of a Minari `main_data.hdf5`; raises ValueError naming file, episode and field of a fault."""
    with open_hdf5(path) as file:
        if len(file) != episodes:
            raise ValueError(f"{path}: holds {len(file)} episodes, the metadata says total_episodes = {episodes}")
        reader = _Reader(file, path, observation_space, action_space)
        first = 0
        while first < episodes:
            block = reader.block(first, episodes)
            first += len(block.lengths)
            yield block


def open_hdf5(path: Path) -> h5py.File:
    """Open for reading; raises ValueError, one line, for a missing, empty, cut or foreign file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return h5py.File(path, "r", locking=False)  # a read-only network folder may allow no lock
    except OSError as error:
        reason = " ".join(str(error).split())
        cut = "truncated file" in reason or path.stat().st_size == 0
        kind = "a truncated HDF5 file (copy or download it again)" if cut else "not a readable HDF5 file"
        raise ValueError(f"{path}: {kind}: {reason}") from error


@dataclass
class _Column:
    """One array of every episode's group, and the rows of it that the block at hand has so far."""

    path: str  # within the episode's group
    width: int
    dtype: npt.DTypeLike
    extra: int = 0  # rows beyond one for each step
    leaf: Leaf | None = None
    decoded: bool = False  # strings and images take h5py's high-level way
    rows: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0))
    parts: list[Any] = field(default_factory=list)
    filled: int = 0

    def result(self) -> Any:
        """All rows of the block, (n, W), of the declared type."""
        if not self.decoded:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused as such
                return self.rows[: self.filled].astype(self.dtype, copy=False)
        if self.leaf is not None and isinstance(self.leaf.space, spaces.Text):
            return [text for part in self.parts for text in part]
        return np.concatenate(self.parts)


def _columns(name: str, space: AnySpace, extra: int) -> list[_Column]:
    columns = []
    for leaf in leaves(space):
        path = "/".join([name, *(f"_index_{key}" if isinstance(key, int) else str(key) for key in leaf.keys)])
        decoded = isinstance(leaf.space, spaces.Text) or is_image(leaf.space)
        columns.append(_Column(path, leaf.raw_width, leaf.raw_dtype, extra, leaf, decoded))
    return columns


def _source(columns: list[_Column]) -> ReadLeaf:
    by_keys = {column.leaf.keys: column for column in columns if column.leaf is not None}
    return lambda leaf: by_keys[leaf.keys].result()


class _Reader:
    """One open file."""

    def __init__(self, file: h5py.File, path: Path, observation_space: AnySpace, action_space: AnySpace) -> None:
        self.file = file
        self.path = path
        self.observation_space = observation_space
        self.action_space = action_space
        self.observations = _columns("observations", observation_space, 1)
        self.actions = _columns("actions", action_space, 0)
        self.rewards = _Column("rewards", 1, np.float32)
        self.flags = [_Column("terminations", 1, np.bool_), _Column("truncations", 1, np.bool_)]
        self.columns = [*self.observations, *self.actions, self.rewards, *self.flags]
        self.capacity = max(1, BLOCK_BYTES // (8 * sum(column.width for column in self.columns)))

    def block(self, first: int, episodes: int) -> Block:
        """Read episodes from `first` on, as many as fit and at least one."""
        lengths = np.array(self._fill(first, episodes), dtype=np.int64)
        place: Any = {"where": str(self.path), "first": first}
        observations = flatten_block(
            self.observation_space, _source(self.observations), lengths + 1, field="observations", **place
        )
        actions = flatten_block(self.action_space, _source(self.actions), lengths, field="actions", **place)
        rewards = self.rewards.result()[:, 0]
        check_finite(rewards, lengths, field="rewards", **place)
        terminated, truncated = (
            last_flags(column.result()[:, 0], lengths, field=column.path, **place) for column in self.flags
        )
        before, final = split_final(observations, lengths)
        return Block(lengths, before, final, actions, rewards, terminated, truncated)

    def _fill(self, first: int, episodes: int) -> list[int]:
        """Read into the columns; returns the episodes' lengths."""
        lengths: list[int] = []
        for episode in range(first, episodes):
            rewards = self._open(episode, "rewards")
            shape = rewards.shape
            count = shape[0] if shape else 0
            if count < 1:
                raise ValueError(f"{self.path}, episode {episode}: no steps in rewards")
            if lengths and self.rewards.filled + count > self.capacity:
                break
            if not lengths:
                self.capacity = max(self.capacity, count)
                self._allocate(first)
            self._read(self.rewards, rewards, episode, count)
            for column in self.columns:
                if column is not self.rewards:
                    self._read(column, self._open(episode, column.path), episode, count + column.extra)
            lengths.append(count)
        return lengths

    def _allocate(self, episode: int) -> None:
        """Empty columns; room that is not written to costs no memory."""
        for column in self.columns:
            column.parts, column.filled = [], 0
            if not column.decoded:
                # NumPy turns float64 into float32 several times faster than HDF5 does.
                double = column.dtype == np.float32 and self._open(episode, column.path).dtype == np.float64
                shape = (self.capacity * (1 + column.extra), column.width)
                column.rows = np.empty(shape, dtype=np.float64 if double else column.dtype)

    def _open(self, episode: int, path: str) -> h5d.DatasetID:
        try:
            return h5d.open(self.file.id, f"episode_{episode}/{path}".encode())
        except Exception as error:
            raise ValueError(f"{self.path}, episode {episode}: {path} is missing or cannot be read") from error

    def _read(self, column: _Column, source: h5d.DatasetID, episode: int, count: int) -> None:
        if column.decoded:
            column.parts.append(self._decoded(column, episode, count))
            return
        target = column.rows[column.filled : column.filled + count]
        try:
            # HDF5 refuses where the file holds another number of values than the target; the shape itself is looked
            # at only in a block's first episode, as asking for it costs as much as the read.
            if column.filled == 0 and source.shape[0] != count:
                raise ValueError
            source.read(_memory_space(target.size), h5s.ALL, target, _MEMORY_TYPES[target.dtype])
        except Exception as error:
            raise ValueError(self._mismatch(column, episode, source.shape, count)) from error
        column.filled += count

    def _decoded(self, column: _Column, episode: int, count: int) -> Any:
        """Strings, or images that may be JPEG, of one episode."""
        source = self.file[f"episode_{episode}/{column.path}"]
        leaf = column.leaf
        assert leaf is not None
        if source.shape[:1] != (count,):
            raise ValueError(self._mismatch(column, episode, source.shape, count))
        if isinstance(leaf.space, spaces.Text):
            return [text.decode() for text in source[()]]
        if source.shape[1:] == leaf.space.shape:
            return as_rows(leaf, source[()])
        where = f"{self.path}, episode {episode}: {column.path}"
        return decode_frames([bytes(frame) for frame in source[()]], leaf, where)

    def _mismatch(self, column: _Column, episode: int, shape: tuple[int, ...], rows: int) -> str:
        place = f"{self.path}, episode {episode}: {column.path}"
        if shape[:1] != (rows,):
            why = "one more than rewards" if column.extra else "as many as rewards"
            return f"{place} has {shape[0] if shape else 0} rows, expected {rows} ({why})"
        if int(np.prod(shape[1:])) != column.width:
            return f"{place} has shape {shape}, the declared space has {column.width} numbers a step"
        return f"{place} cannot be read (damaged data, or not numbers)"
