"""Where the episodes of a flat HDF5 file end.

Shapes: N steps of the whole file, E episodes, n steps of a piece.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from minrl.data.convert import BLOCK_BYTES, Arrays
from minrl.data.d4rl.table import time_limit
from minrl.data.episode import BoolArray, IntArray

_log = logging.getLogger("minrl.data")
_ROUNDINGS = 2  # a number that was rounded twice on its way lies within one unit of the coarser type, one is to spare


def split(source: h5py.File, task: str) -> tuple[IntArray, BoolArray, BoolArray]:
    """Return lengths (E,), terminated (E,), truncated (E,) from a file's flags; a piece after the last has neither.

    Where `timeouts` is missing or never set, the task's time limit cuts, or else a jump from next_observations to
    the next row. In maze2d `timeouts` marks that the goal was reached while the walk goes on, so such an episode has
    neither flag.
    """
    steps = len(source["terminals"])
    marked, limit = _is_set(source, "timeouts"), time_limit(task)
    jumps = not marked and limit is None and "next_observations" in source
    goal_reached = marked and task.startswith("maze2d")
    begun = 0  # the row at which the episode at hand opened
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
    """Say in one line where a file's fields hardly tell where its episodes end."""
    lengths = np.diff(arrays["offsets"])
    closed = np.asarray(arrays["terminated"]) | np.asarray(arrays["truncated"])
    advice = "timeouts (N,) that is True at each episode's last step would tell"
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
            "%s: no row of next_observations goes on in the next row of observations (other units, or shuffled "
            "steps?), so that %d of its %d steps are episodes of their own; %s",
            *(file, int((~closed).sum()), int(lengths.sum()), advice),
        )


def differ(observed: npt.NDArray[Any], following: npt.NDArray[Any]) -> BoolArray:
    """Return True for each row, (n,), in which two arrays differ by more than rounding to the coarser one's type.

    A float64 array that holds numbers rounded to float32 or float16 counts as of that type beside one that does not.
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
        # NaN is no jump: it is refused where it stands.
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
        # Compared as float64, in six arrays at once: at 8 bytes a number a piece of 16 MB took 96 MB.
        width = 6 * 8 * int(np.prod(source["observations"].shape[1:]))
    size = max(1, BLOCK_BYTES // max(1, width))
    return (slice(begin, min(begin + size, steps)) for begin in range(0, steps, size))


def _flags(source: h5py.File, key: str, rows: slice) -> BoolArray:
    flags: BoolArray = source[key][rows].reshape(rows.stop - rows.start).astype(np.bool_)
    return flags


def _jumps(source: h5py.File, rows: slice, steps: int) -> BoolArray:
    """Return True where what followed a row is not what the next row observed; False in the file's last row."""
    jumps = np.zeros(rows.stop - rows.start, dtype=np.bool_)
    stop = min(rows.stop, steps - 1)
    if stop > rows.start:
        observed = source["observations"][rows.start + 1 : stop + 1]
        jumps[: stop - rows.start] = differ(observed, source["next_observations"][rows.start : stop])
    return jumps


def _time_limit_ends(terminals: BoolArray, limit: int, first: int, begun: int) -> tuple[BoolArray, int]:
    """Find every `limit`-th step since the last terminal one that is not terminal itself.

    `first` is the number of the piece's first row, `begun` the row after the last terminal one before it; returns
    the flags (n,) and the row after the last terminal one so far.
    """
    steps = np.arange(first, first + len(terminals))
    after = np.where(terminals, steps + 1, 0)
    starts = np.maximum.accumulate(np.concatenate([[begun], after]))
    ends: BoolArray = ((steps - starts[:-1]) % limit == limit - 1) & ~terminals
    return ends, int(starts[-1])
