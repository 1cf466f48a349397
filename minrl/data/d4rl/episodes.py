"""Episode ends in a flat HDF5 file, and segments of it that are converted together.

Shapes: N steps of the whole file, E episodes, n steps of a piece.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from minrl.data.convert import BLOCK_BYTES, Arrays
from minrl.data.d4rl.table import time_limit
from minrl.data.episode import BoolArray, IntArray, groups
from minrl.data.hdf5_file import rows_of

_log = logging.getLogger("minrl.data")
_ROUNDINGS = 2  # units of the coarser type; a value that was rounded twice lies within one


def split(source: h5py.File, task: str) -> tuple[IntArray, BoolArray, BoolArray]:
    """Return lengths (E,), terminated (E,), truncated (E,) from a file's flags; steps after the last have neither.

    If `timeouts` is missing or never set, episodes end at the task's time limit, or else where next_observations does
    not match the next row. In maze2d `timeouts` marks a reached goal, after which the recording continues, so such an
    episode has neither flag.
    """
    steps = len(source["terminals"])
    marked, limit = _is_set(source, "timeouts"), time_limit(task)
    jumps = not marked and limit is None and "next_observations" in source
    goal_reached = marked and task.startswith("maze2d")
    begun = 0  # first row of the current episode
    last: list[IntArray] = []
    flags: list[tuple[BoolArray, BoolArray]] = []
    for rows in _pieces(source, jumps):
        terminals = _flags(source, "terminals", rows)
        timeouts = _flags(source, "timeouts", rows) if marked else np.zeros(len(terminals), dtype=np.bool_)
        if not marked and limit is not None:
            timeouts, begun = _time_limit_ends(terminals, limit, rows.start, begun)
        ends = terminals | timeouts
        if jumps:
            ends |= _jumps(source, rows, steps)
        if rows.stop == steps:
            ends[-1] = True
        found = np.flatnonzero(ends)
        last.append(found + rows.start)
        flags.append((terminals[found], timeouts[found] & (not goal_reached)))
    terminated, truncated = (np.concatenate(parts) for parts in zip(*flags, strict=True))
    lengths = np.diff(np.concatenate(last), prepend=-1).astype(np.int64)
    return lengths, terminated, truncated


def report(source: h5py.File, file: Path, task: str, arrays: Arrays) -> None:
    """Warn in one line if a file's fields hardly determine where its episodes end."""
    lengths = np.diff(arrays["offsets"])
    closed = np.asarray(arrays["terminated"]) | np.asarray(arrays["truncated"])
    advice = "add timeouts (N,), True at each episode's last step"
    held = [key for key in ("timeouts", "next_observations") if key in source]
    if len(lengths) == 1 and not closed[0] and time_limit(task) is None:
        lack = "it has neither timeouts nor next_observations" if not held else f"{' and '.join(held)} mark no end"
        _log.warning("%s: the whole file is one episode of %d steps, as %s; %s", file, lengths[0], lack, advice)
    elif not held and time_limit(task) is None:
        _log.warning(
            "%s: has neither timeouts nor next_observations, so only terminals end its %d episodes, the longest of %d "
            "steps; %s",
            *(file, len(lengths), lengths.max(), advice),
        )
    elif held == ["next_observations"] and not closed.all() and lengths[~closed].max() == 1 and len(lengths) > 2:
        _log.warning(
            "%s: no row of next_observations equals the next row of observations (other units, or shuffled steps?), "
            "so that %d of its %d steps are episodes of their own; %s",
            *(file, int((~closed).sum()), int(lengths.sum()), advice),
        )


def differ(observed: npt.NDArray[Any], following: npt.NDArray[Any]) -> BoolArray:
    """Return True for each row, (n,), in which two arrays differ by more than rounding to the coarser type.

    A float64 array whose values were rounded to float32 or float16 counts as of that type if the other's were not.
    """
    n = len(observed)
    kinds = [array.dtype.kind for array in (observed, following)]
    if "f" not in kinds:
        unequal: BoolArray = np.not_equal(observed, following).reshape(n, -1).any(axis=1)
        return unequal
    types = [array.dtype for array, kind in zip((observed, following), kinds, strict=True) if kind == "f"]
    if len(types) == 2:
        rounded = [_held_type(observed), _held_type(following)]
        types = types if rounded[0] == rounded[1] else rounded
    coarse = np.finfo(max(types, key=lambda kind: float(np.finfo(kind).eps)))
    a, b = (array.reshape(n, -1).astype(np.float64, copy=False) for array in (observed, following))
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = np.maximum(np.abs(a), np.abs(b)) * (_ROUNDINGS * float(coarse.eps)) + float(coarse.smallest_subnormal)
        # NaN is no jump: the conversion refuses it at its place.
        apart: BoolArray = np.any(np.abs(a - b) > allowed, axis=1)
    return apart


def _held_type(values: npt.NDArray[Any]) -> np.dtype[Any]:
    """Return the coarsest real type that holds all values exactly."""
    with np.errstate(over="ignore", invalid="ignore"):
        for kind in (np.float16, np.float32):
            if values.dtype.itemsize > np.dtype(kind).itemsize and np.array_equal(values.astype(kind), values):
                return np.dtype(kind)
    return values.dtype


def _is_set(source: h5py.File, key: str) -> bool:
    return key in source and any(_flags(source, key, rows).any() for rows in _pieces(source, jumps=False))


def _pieces(source: h5py.File, jumps: bool) -> Iterator[slice]:
    """Cut the file's rows into pieces of a constant size in memory."""
    steps = len(source["terminals"])
    width = 1
    if jumps:
        # Compared as float64, in six arrays at once.
        width = 6 * 8 * int(np.prod(source["observations"].shape[1:]))
    size = max(1, BLOCK_BYTES // max(1, width))
    return (slice(begin, min(begin + size, steps)) for begin in range(0, steps, size))


def _flags(source: h5py.File, key: str, rows: slice) -> BoolArray:
    flags: BoolArray = rows_of(source, key, rows).reshape(rows.stop - rows.start).astype(np.bool_)
    return flags


def _jumps(source: h5py.File, rows: slice, steps: int) -> BoolArray:
    """Mark rows whose next observation differs from the next row's observation; False in the file's last row."""
    jumps = np.zeros(rows.stop - rows.start, dtype=np.bool_)
    stop = min(rows.stop, steps - 1)
    if stop > rows.start:
        observed = rows_of(source, "observations", slice(rows.start + 1, stop + 1))
        jumps[: stop - rows.start] = differ(observed, rows_of(source, "next_observations", slice(rows.start, stop)))
    return jumps


def _time_limit_ends(terminals: BoolArray, limit: int, first: int, begun: int) -> tuple[BoolArray, int]:
    """Mark every `limit`-th step since the last terminal one that is not terminal itself.

    `first` is the index of the piece's first row, `begun` the row after the last terminal one before it; returns the
    flags (n,) and the row after the last terminal one so far.
    """
    steps = np.arange(first, first + len(terminals))
    after = np.where(terminals, steps + 1, 0)
    starts = np.maximum.accumulate(np.concatenate([[begun], after]))
    ends: BoolArray = ((steps - starts[:-1]) % limit == limit - 1) & ~terminals
    return ends, int(starts[-1])


@dataclass(frozen=True)
class Segment:
    """Rows of a file that are converted together: whole episodes, or a piece of one."""

    first: int  # episode
    step: int  # of that episode, at which the first row stands
    lengths: IntArray  # (e,) rows of each episode in the segment
    begin: int  # row
    ends: bool  # True if the last episode ends here

    @property
    def rows(self) -> slice:
        """Rows within the file."""
        return slice(self.begin, self.begin + int(self.lengths.sum()))

    @property
    def stops(self) -> IntArray:
        """Rows within the segment after which an episode ends."""
        return np.cumsum(self.lengths)[: len(self.lengths) if self.ends else 0]

    @property
    def episodes(self) -> slice:
        """Episodes that end here."""
        return slice(self.first, self.first + len(self.stops))


def segments(lengths: IntArray, row_bytes: int) -> Iterator[Segment]:
    """Cut episodes into segments of at most BLOCK_BYTES and one row or more each."""
    most = max(1, BLOCK_BYTES // max(1, row_bytes))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for first, last in groups(offsets, most):
        begin, end = int(offsets[first]), int(offsets[last])
        if end - begin <= most:
            yield Segment(first, 0, lengths[first:last], begin, ends=True)
            continue
        for row in range(begin, end, most):
            count = min(most, end - row)
            yield Segment(first, row - begin, np.array([count]), row, ends=row + count == end)
