"""Reader of Minari's HDF5 storage, directly into flat arrays.

A set of short episodes has tens of thousands of small arrays, so the reader uses h5py's low-level calls, goes through
the file once, and reads each array into its place.
Shapes: n steps and e episodes of one block, W elements stored for one step.
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

from minrl.data.convert import (
    BLOCK_BYTES,
    EpisodeBlock,
    Place,
    ReadLeaf,
    check_finite,
    checked_block_masks,
    flatten_block,
    last_flags,
    split_final,
)
from minrl.data.episode import IntArray
from minrl.data.hdf5_file import check_stored, open_hdf5
from minrl.data.masks.action_masks import mask_size
from minrl.data.minari.images import decode_frames, is_image
from minrl.data.spaces import AnySpace, Leaf, as_rows, block_dtype, leaves
from minrl.system.messages import faults_of

_MEMORY_TYPES = {
    np.dtype(np.float32): h5t.NATIVE_FLOAT,
    np.dtype(np.float64): h5t.NATIVE_DOUBLE,
    np.dtype(np.int64): h5t.NATIVE_INT64,
    np.dtype(np.bool_): h5t.NATIVE_UINT8,
    np.dtype(np.uint8): h5t.NATIVE_UINT8,
}
MASKS = "episode_0/infos/action_masks"
_memory_space = lru_cache(maxsize=4096)(lambda count: h5s.create_simple((count,)))


def read_hdf5(
    path: Path, observation_space: AnySpace, action_space: AnySpace, *, episodes: int
) -> Iterator[EpisodeBlock]:
    """Yield the blocks of a Minari `main_data.hdf5`; ValueError names file, episode and field of a fault."""
    with faults_of(str(path)), open_hdf5(path) as file:
        if len(file) != episodes:
            raise ValueError(f"{path}: holds {len(file)} episodes, the metadata says total_episodes = {episodes}")
        reader = _Reader(file, path, observation_space, action_space)
        first = 0
        while first < episodes:
            for block in reader.blocks(first, episodes):
                first += len(block.stops)
                yield block


@dataclass
class _Column:
    """Array that each episode's group has, and its rows in the current block."""

    path: str  # within the episode's group
    width: int
    dtype: npt.DTypeLike
    extra: int = 0  # rows beyond one for each step
    leaf: Leaf | None = None
    decoded: bool = False  # strings and images, which are read by h5py's high-level API
    rows: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0))
    parts: list[Any] = field(default_factory=list)
    filled: int = 0

    def result(self) -> Any:
        """Return all rows of the block, (n, W), of the declared type, a leaf's through `as_rows`."""
        if not self.decoded:
            if self.leaf is not None:
                return as_rows(self.leaf, self.rows[: self.filled])
            with np.errstate(over="ignore"):  # beyond float32 values become infinite, which is refused later
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


def mask_column(file: h5py.File, action_space: AnySpace) -> _Column | None:
    """Return the column of action masks among the infos, which may have a row after the last action; None if none."""
    if not (size := mask_size(action_space)) or not isinstance(file.get(MASKS), h5py.Dataset):
        return None
    rows, steps = (file[f"episode_0/{name}"].shape[:1] for name in ("infos/action_masks", "rewards"))
    return _Column("infos/action_masks", size, np.bool_, extra=int(rows != steps))


def _source(columns: list[_Column]) -> ReadLeaf:
    by_keys = {column.leaf.keys: column for column in columns if column.leaf is not None}
    return lambda leaf: by_keys[leaf.keys].result()


class _Reader:
    """Reader of one open file."""

    def __init__(self, file: h5py.File, path: Path, observation_space: AnySpace, action_space: AnySpace) -> None:
        self.file = file
        self.path = path
        self.observation_space = observation_space
        self.action_space = action_space
        self.observations = _columns("observations", observation_space, 1)
        self.actions = _columns("actions", action_space, 0)
        self.rewards = _Column("rewards", 1, np.float32)
        self.flags = [_Column("terminations", 1, np.bool_), _Column("truncations", 1, np.bool_)]
        self.masks = mask_column(file, action_space)
        self.columns = [*self.observations, *self.actions, self.rewards, *self.flags]
        self.columns += [] if self.masks is None else [self.masks]
        self.capacity = max(1, BLOCK_BYTES // (8 * sum(column.width for column in self.columns)))

    def blocks(self, first: int, episodes: int) -> Iterator[EpisodeBlock]:
        """Read as many episodes from `first` on as fit into a block; a longer one comes in pieces."""
        count = self._steps(first)
        if count <= self.capacity:
            lengths = np.array(self._fill(first, episodes), dtype=np.int64)
            yield self._block(Place(str(self.path), first), lengths, ends=True)
            return
        for step in range(0, count, self.capacity):
            rows = min(self.capacity, count - step)
            ends = step + rows == count
            self._fill_piece(first, step, rows, count, ends=ends)
            yield self._block(Place(str(self.path), first, step), np.array([rows]), ends=ends)

    def _block(self, place: Place, lengths: IntArray, *, ends: bool) -> EpisodeBlock:
        """Flatten and check the columns: whole episodes, or steps of one that continues unless it `ends`."""
        extra = 1 if ends else 0
        observations = flatten_block(
            self.observation_space,
            _source(self.observations),
            lengths + extra,
            field="observations",
            place=place,
            dtype=block_dtype(self.observation_space),
        )
        actions = flatten_block(
            self.action_space, _source(self.actions), lengths, field="actions", place=place, dtype=None
        )
        rewards = self.rewards.result()[:, 0]
        check_finite(rewards, lengths, field="rewards", place=place)
        # If the episode continues, an extra row stands for its last one: no flag may be set before it.
        flags = [column.result()[:, 0] for column in self.flags]
        if not ends:
            flags = [np.append(values, False) for values in flags]
        terminated, truncated = (
            last_flags(values, lengths + 1 - extra, field=column.path, place=place)
            for column, values in zip(self.flags, flags, strict=True)
        )
        masks = None
        if self.masks is not None:
            stored = self.masks.result()
            stored = split_final(stored, lengths)[0] if ends and self.masks.extra else stored
            masks = checked_block_masks(self.action_space, stored, actions, lengths, place)
        if not ends:
            none = np.zeros(0, dtype=np.bool_)
            return EpisodeBlock(
                np.zeros(0, dtype=np.int64), observations, observations[:0], actions, rewards, none, none, masks
            )
        before, final = split_final(observations, lengths)
        return EpisodeBlock(np.cumsum(lengths), before, final, actions, rewards, terminated, truncated, masks)

    def _steps(self, episode: int) -> int:
        shape = self._open(episode, "rewards").shape
        if not shape or shape[0] < 1:
            raise ValueError(f"{self.path}, episode {episode}: no steps in rewards")
        return int(shape[0])

    def _fill(self, first: int, episodes: int) -> list[int]:
        """Read whole episodes into the columns; return their lengths."""
        lengths: list[int] = []
        self._allocate(first)
        for episode in range(first, episodes):
            count = self._steps(episode)
            if self.rewards.filled + count > self.capacity:
                break
            for column in self.columns:
                self._read(column, self._open(episode, column.path), episode, count + column.extra)
            lengths.append(count)
        return lengths

    def _fill_piece(self, episode: int, step: int, rows: int, count: int, *, ends: bool) -> None:
        """Read `rows` of the `count` steps of an episode into the columns, from `step` on."""
        self._allocate(episode)
        for column in self.columns:
            source, more = self._open(episode, column.path), column.extra if ends else 0
            wide = int(np.prod(source.shape[1:])) == column.width or column.decoded
            if source.shape[:1] != (count + column.extra,) or not wide:
                raise ValueError(self._mismatch(column, episode, source.shape, count + column.extra))
            self._read(column, source, episode, rows + more, step)

    def _allocate(self, episode: int) -> None:
        """Empty the columns; memory that is not written to is not used."""
        for column in self.columns:
            column.parts, column.filled = [], 0
            if not column.decoded:
                shape = (self.capacity * (1 + column.extra), column.width)
                column.rows = np.empty(shape, dtype=self._read_as(column, episode))

    def _read_as(self, column: _Column, episode: int) -> npt.DTypeLike:
        """Return the type to read a column as, one that holds the stored values, as HDF5 would clip them."""
        stored = self._open(episode, column.path).dtype
        # NumPy casts float64 to float32 several times faster than HDF5; float32 holds integers of 24 bits.
        wide = stored == np.float64 or (stored.kind in "iu" and stored.itemsize > 2 and column.leaf is not None)
        double = column.dtype == np.float32 and wide
        if double or (column.leaf is not None and column.dtype == np.int64 and stored.kind == "f"):
            return np.float64
        if column.dtype == np.uint8 and stored != np.uint8:
            return np.float64 if stored.kind == "f" else np.int64
        return column.dtype

    def _open(self, episode: int, path: str) -> h5d.DatasetID:
        where = f"{self.path}, episode {episode}: {path}"
        try:
            found = h5d.open(self.file.id, f"episode_{episode}/{path}".encode())
        except Exception as error:
            raise ValueError(f"{where} is missing or cannot be read") from error
        with faults_of(where):
            check_stored(found, where, frames=True)
        return found

    def _read(self, column: _Column, source: h5d.DatasetID, episode: int, count: int, step: int | None = None) -> None:
        """Read all `count` rows of an episode, or `count` of them from `step` on."""
        if column.decoded:
            column.parts.append(self._decoded(column, episode, count, step))
            return
        target = column.rows[column.filled : column.filled + count]
        try:
            # HDF5 fails if the file holds another number of values than the target; the shape itself is checked only
            # in a block's first episode, as reading it costs as much as the values.
            chosen = h5s.ALL
            if step is not None:
                chosen = source.get_space()
                shape = source.shape[1:]
                chosen.select_hyperslab((step, *(0 for _ in shape)), (count, *shape))
            elif column.filled == 0 and source.shape[0] != count:
                raise ValueError
            source.read(_memory_space(target.size), chosen, target, _MEMORY_TYPES[target.dtype])
        except Exception as error:
            raise ValueError(self._mismatch(column, episode, source.shape, count)) from error
        column.filled += count

    def _decoded(self, column: _Column, episode: int, count: int, step: int | None) -> Any:
        """Read strings, or images that may be JPEG, of one episode."""
        source = h5py.Dataset(self._open(episode, column.path))
        leaf = column.leaf
        assert leaf is not None
        if step is None and source.shape[:1] != (count,):
            raise ValueError(self._mismatch(column, episode, source.shape, count))
        where = f"{self.path}, episode {episode}: {column.path}"
        with faults_of(where):
            rows = source[()] if step is None else source[step : step + count]
            if isinstance(leaf.space, spaces.Text):
                return [text.decode() for text in rows]
            if source.shape[1:] == leaf.space.shape:
                return as_rows(leaf, rows)
            return decode_frames([bytes(frame) for frame in rows], leaf, where)

    def _mismatch(self, column: _Column, episode: int, shape: tuple[int, ...], rows: int) -> str:
        place = f"{self.path}, episode {episode}: {column.path}"
        if shape[:1] != (rows,):
            why = "one more than rewards" if column.extra else "as many as rewards"
            return f"{place} has {shape[0] if shape else 0} rows, expected {rows} ({why})"
        if int(np.prod(shape[1:])) != column.width:
            return f"{place} has shape {shape}, the declared space has {column.width} values a step"
        return f"{place} cannot be read (damaged data, or not numbers)"
