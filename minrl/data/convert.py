"""Conversion of any file format, block by block: values are checked, flattened and laid end to end.

Shapes: n steps and e episodes of one block; N steps, E episodes, O and A flat widths of the whole set.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.data.episode import BoolArray, FloatArray, IntArray, returns_to_go
from minrl.data.mapped import BYTES_AT_ONCE, leave_memory
from minrl.data.masks.action_masks import forbidden
from minrl.data.moments import Rounding
from minrl.data.spaces import AnySpace, Leaf, encode, invalid_row, leaves, stored_dtype
from minrl.system.messages import one_line

Arrays = dict[str, npt.NDArray[Any]]
# (name, shape, dtype) -> an array to write into, in memory or mapped from a file.
Allocate = Callable[[str, tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
# leaf -> its rows of the whole block, as `spaces.as_rows` gives them.
ReadLeaf = Callable[[Leaf], Any]

BLOCK_BYTES = BYTES_AT_ONCE  # of the rows that are converted together
_BLUR = 0.1  # of an action's standard deviation: the most that the cast to float32 may move a value


@dataclass(frozen=True)
class Place:
    """Position of a block's first row, for messages."""

    where: str  # the file
    episode: int = 0
    step: int = 0  # of that episode; above 0 where a block continues a long episode


@dataclass(frozen=True)
class EpisodeBlock:
    """Consecutive steps, flattened: whole episodes, or a piece of one that is longer than a block."""

    stops: IntArray  # (e,) the rows after which an episode ends
    observations: npt.NDArray[Any]  # (n, O)
    final_observations: npt.NDArray[Any]  # (e, O)
    actions: npt.NDArray[Any]  # (n, A)
    rewards: FloatArray  # (n,)
    terminated: BoolArray  # (e,)
    truncated: BoolArray  # (e,)
    action_masks: BoolArray | None = None  # (n, M)


def in_memory(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Allocate an array in memory."""
    return np.empty(shape, dtype=dtype)


def assemble(
    read: Callable[[], Iterable[EpisodeBlock]],
    *,
    steps: int,
    episodes: int,
    observation_space: AnySpace,
    action_space: AnySpace,
    where: str,
    allocate: Allocate,
) -> Arrays:
    """Concatenate all blocks into arrays of N = steps rows and E = episodes, with the names of `Episodes`.

    Observations become float32, or float64 if float32 would lose a column's values (see `Rounding`), which is known
    once all are read: `read` is then called again. Actions become float32.

    Raises ValueError, naming `where`, if the blocks hold another number of steps or episodes, or actions that float32
    cannot tell apart.
    """
    widths = leaves(observation_space)[-1].columns.stop, leaves(action_space)[-1].columns.stop
    rounding = Rounding(widths[0]), Rounding(widths[1])
    arrays = _filled(read(), steps, episodes, widths, where, allocate, stored_dtype(observation_space), rounding)
    blurred = np.flatnonzero(rounding[1].blurred(_BLUR))
    if len(blurred):
        mean = float(arrays["actions"][:, blurred[0]].mean(dtype=np.float64))
        raise ValueError(
            f"{where}: column {blurred[0]} of actions lies so close to {mean:.10g} that float32, in which agents act, "
            "cannot tell its values apart: subtract that number from the recording, and add it in a wrapper of the "
            "environment"
        )
    if rounding[0].lost:
        arrays = _filled(read(), steps, episodes, widths, where, allocate, np.float64, None)
    to_go = allocate("returns_to_go", (steps,), np.float32)
    returns_to_go(arrays["rewards"], arrays["offsets"], out=to_go)
    return {**arrays, "returns_to_go": to_go}


def _filled(
    blocks: Iterable[EpisodeBlock],
    steps: int,
    episodes: int,
    widths: tuple[int, int],
    where: str,
    allocate: Allocate,
    dtype: npt.DTypeLike,
    rounding: tuple[Rounding, Rounding] | None,
) -> Arrays:
    shapes: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
        "observations": ((steps, widths[0]), dtype),
        "actions": ((steps, widths[1]), np.float32),
        "rewards": ((steps,), np.float32),
        "final_observations": ((episodes, widths[0]), dtype),
        "offsets": ((episodes + 1,), np.int64),
        "terminated": ((episodes,), np.bool_),
        "truncated": ((episodes,), np.bool_),
    }
    arrays = {name: allocate(name, shape, kind) for name, (shape, kind) in shapes.items()}
    arrays["offsets"][0] = 0
    row = episode = 0
    for block in blocks:
        rows, count = len(block.rewards), len(block.stops)
        if row + rows > steps or episode + count > episodes:
            raise ValueError(
                f"{where}: more data than the metadata says ({episodes} episodes, {steps} steps), "
                f"first seen in episode {min(episode + count, episodes)}"
            )
        if rounding is not None:
            rounding[0].add(block.observations)
            rounding[1].add(block.actions)
        for name in ("observations", "actions", "rewards"):
            arrays[name][row : row + rows] = getattr(block, name)
            leave_memory(arrays[name])
        if block.action_masks is not None:
            if "action_masks" not in arrays:
                arrays["action_masks"] = allocate("action_masks", (steps, block.action_masks.shape[1]), np.bool_)
            arrays["action_masks"][row : row + rows] = block.action_masks
        for name in ("final_observations", "terminated", "truncated"):
            arrays[name][episode : episode + count] = getattr(block, name)
        arrays["offsets"][episode + 1 : episode + count + 1] = row + block.stops
        row, episode = row + rows, episode + count
    if (row, episode) != (steps, episodes):
        raise ValueError(
            f"{where}: holds {episode} episodes with {row} steps, the metadata says {episodes} with {steps}"
        )
    return arrays


def flatten_block(
    space: AnySpace,
    read: ReadLeaf,
    lengths: IntArray,
    *,
    field: str,
    place: Place,
    dtype: npt.DTypeLike | None = np.float32,
) -> npt.NDArray[Any]:
    """Read every leaf of a space for a block of episodes, check it and concatenate the columns as `dtype`.

    `lengths` are the rows of each episode in the block. If `dtype` is None, it is float64 if one leaf's rows are.
    Raises ValueError naming file, episode, field and step of the first value that is not finite or not in the space.
    """
    columns = []
    for leaf in leaves(space):
        raw = read(leaf)
        bad = invalid_row(leaf.space, raw)
        if bad is not None:
            name = "/".join([field, *(str(key) for key in leaf.keys)])
            fault = f"{describe(raw[bad])} in {name}"
            stated = f", {one_line(leaf.space)}" if "outside" in fault else ""
            raise ValueError(f"{locate(place, lengths, bad)}: {fault}{stated}")
        columns.append(encode(leaf.space, raw, dtype))
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


def describe(values: Any) -> str:
    """Describe the fault of a row (values, or a string): NaN, infinite, or outside its space."""
    if isinstance(values, str):
        return f"{values!r} outside the declared space"
    if np.issubdtype(values.dtype, np.floating) and not (np.abs(values) <= np.finfo(np.float32).max).all():
        return "NaN" if np.isnan(values).any() else "infinite value"
    shown = ", ".join(f"{value:.10g}" for value in values[:8].tolist()) + (", ..." if len(values) > 8 else "")
    return f"[{shown}] outside the declared space"


def check_finite(values: FloatArray, lengths: IntArray, *, field: str, place: Place) -> None:
    """Raise ValueError naming the first value of (n,) that is NaN or infinite."""
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{locate(place, lengths, bad)}: {describe(values[bad : bad + 1])} in {field}")


def locate(place: Place, lengths: IntArray, row: int) -> str:
    """Name file, episode and step of a row within a block that begins at `place`."""
    stops = np.cumsum(lengths)
    episode = int(np.searchsorted(stops, row, side="right"))
    step = row - int(stops[episode] - lengths[episode]) + (place.step if episode == 0 else 0)
    return f"{place.where}, episode {place.episode + episode}, step {step}"


def last_flags(flags: BoolArray, lengths: IntArray, *, field: str, place: Place) -> BoolArray:
    """Return the flag of each episode's last step, (n,) -> (e,); raise ValueError if one is set before it."""
    ends = np.cumsum(lengths) - 1
    last = flags[ends]
    if int(flags.sum()) != int(last.sum()):
        early = flags.copy()
        early[ends] = False
        raise ValueError(
            f"{locate(place, lengths, int(np.argmax(early)))}: {field} is set before the episode's last step"
        )
    return last


def checked_block_masks(
    space: AnySpace, masks: npt.NDArray[Any], actions: npt.NDArray[Any], lengths: IntArray, place: Place
) -> BoolArray:
    """Return the masks (n, M) of a block; raise ValueError naming the first recorded action that they forbid."""
    flags: BoolArray = masks.reshape(len(actions), -1) != 0
    bad = forbidden(space, actions, flags)
    if bad.any():
        where = locate(place, lengths, int(np.argmax(bad)))
        raise ValueError(f"{where}: the recorded action is not allowed by its row of action_masks")
    return flags


def split_final(rows: npt.NDArray[Any], lengths: IntArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Split rows, one more than `lengths` in each episode, into those before actions (n, O) and final ones (e, O)."""
    ends = np.cumsum(lengths + 1) - 1
    before = np.ones(len(rows), dtype=np.bool_)
    before[ends] = False
    return rows[before], rows[ends]
