"""Blocks of episodes from any file format, checked and laid end to end.

Shapes: n steps and e episodes of one block; N steps, E episodes, O and A flat widths of the whole set.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.data.episode import BoolArray, FloatArray, IntArray, groups, returns_to_go
from minrl.data.mapped import BYTES_AT_ONCE, leave_memory
from minrl.data.moments import Rounding
from minrl.data.spaces import AnySpace, Leaf, encode, invalid_row, leaves, stored_dtype

Arrays = dict[str, npt.NDArray[Any]]
# (name, shape, dtype) -> an array to write into, in memory or mapped from a file.
Allocate = Callable[[str, tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
# (leaf, first episode of the block) -> the leaf's rows of the whole block, as `spaces.as_rows` gives them.
ReadLeaf = Callable[[Leaf], Any]

BLOCK_BYTES = BYTES_AT_ONCE  # of the rows that are converted together
_BLUR = 0.1  # of the spread of an action: values that the cast to float32 moves farther are no longer what was done


@dataclass(frozen=True)
class Place:
    """Where a block's first row stands, for messages."""

    where: str  # the file
    episode: int = 0
    step: int = 0  # of that episode; above 0 where a block goes on with a long episode


@dataclass(frozen=True)
class Block:
    """Consecutive steps, flattened: whole episodes, or a piece of one that is longer than a block."""

    stops: IntArray  # (e,) the rows after which an episode ends
    observations: npt.NDArray[Any]  # (n, O)
    final_observations: npt.NDArray[Any]  # (e, O)
    actions: npt.NDArray[Any]  # (n, A)
    rewards: FloatArray  # (n,)
    terminated: BoolArray  # (e,)
    truncated: BoolArray  # (e,)


def in_memory(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The plain way to allocate."""
    return np.empty(shape, dtype=dtype)


def assemble(
    read: Callable[[], Iterable[Block]],
    *,
    steps: int,
    episodes: int,
    observation_space: AnySpace,
    action_space: AnySpace,
    where: str,
    allocate: Allocate,
) -> Arrays:
    """Lay all blocks end to end in arrays of N = steps rows and E = episodes, as `Episodes` names them.

    Observations become float32, or float64 where float32 would lose what a column holds (see `Rounding`), which is
    known once all were read: `read` is called anew then. Actions become float32.

    Raises ValueError, naming `where`, when the blocks hold another number of either, or actions that float32 blurs.
    """
    widths = leaves(observation_space)[-1].columns.stop, leaves(action_space)[-1].columns.stop
    rounding = Rounding(widths[0]), Rounding(widths[1])
    arrays = _filled(read(), steps, episodes, widths, where, allocate, stored_dtype(observation_space), rounding)
    blurred = np.flatnonzero(rounding[1].blurred(_BLUR))
    if len(blurred):
        mean = float(arrays["actions"][:, blurred[0]].mean(dtype=np.float64))
        raise ValueError(
            f"{where}: column {blurred[0]} of actions lies so close about {mean:.10g} that float32, in which agents "
            "act, does not tell its values apart: record it less that number, and add the number in a wrapper around "
            "the environment"
        )
    if rounding[0].lost:
        arrays = _filled(read(), steps, episodes, widths, where, allocate, np.float64, None)
    to_go = allocate("returns_to_go", (steps,), np.float32)
    returns_to_go(arrays["rewards"], arrays["offsets"], out=to_go)
    return {**arrays, "returns_to_go": to_go}


def _filled(
    blocks: Iterable[Block],
    steps: int,
    episodes: int,
    widths: tuple[int, int],
    where: str,
    allocate: Allocate,
    dtype: npt.DTypeLike,
    rounding: tuple[Rounding, Rounding] | None,
) -> Arrays:
    observations = allocate("observations", (steps, widths[0]), dtype)
    actions = allocate("actions", (steps, widths[1]), np.float32)
    final_observations = allocate("final_observations", (episodes, widths[0]), dtype)
    rewards = allocate("rewards", (steps,), np.float32)
    terminated = allocate("terminated", (episodes,), np.bool_)
    truncated = allocate("truncated", (episodes,), np.bool_)
    offsets = allocate("offsets", (episodes + 1,), np.int64)
    offsets[0] = 0
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
        observations[row : row + rows] = block.observations
        actions[row : row + rows] = block.actions
        rewards[row : row + rows] = block.rewards
        final_observations[episode : episode + count] = block.final_observations
        terminated[episode : episode + count] = block.terminated
        truncated[episode : episode + count] = block.truncated
        offsets[episode + 1 : episode + count + 1] = row + block.stops
        row, episode = row + rows, episode + count
        for written in (observations, actions, rewards):
            leave_memory(written)
    if (row, episode) != (steps, episodes):
        raise ValueError(
            f"{where}: holds {episode} episodes with {row} steps, the metadata says {episodes} with {steps}"
        )
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "final_observations": final_observations,
        "offsets": offsets,
        "terminated": terminated,
        "truncated": truncated,
    }


def flatten_block(
    space: AnySpace,
    read: ReadLeaf,
    lengths: IntArray,
    *,
    field: str,
    place: Place,
    dtype: npt.DTypeLike | None = np.float32,
) -> npt.NDArray[Any]:
    """Read every leaf of a space for a block of episodes, check it and lay the columns side by side as `dtype`.

    `lengths` are the rows of each episode in the block. Where `dtype` is None, it is float64 if one leaf's rows are.
    Raises ValueError naming file, episode, field and step of the first value that is not finite or not in the space.
    """
    columns = []
    for leaf in leaves(space):
        raw = read(leaf)
        bad = invalid_row(leaf.space, raw)
        if bad is not None:
            name = "/".join([field, *(str(key) for key in leaf.keys)])
            raise ValueError(f"{locate(place, lengths, bad)}: {describe(raw[bad])} in {name}")
        columns.append(encode(leaf.space, raw, dtype))
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


def describe(values: Any) -> str:
    """Say what is wrong with a row (numbers, or a string): NaN, infinite, or not one of its space's."""
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
    """The flag of each episode's last step, (n,) -> (e,); raises ValueError where one is set before the last step."""
    ends = np.cumsum(lengths) - 1
    last = flags[ends]
    if int(flags.sum()) != int(last.sum()):
        early = flags.copy()
        early[ends] = False
        raise ValueError(
            f"{locate(place, lengths, int(np.argmax(early)))}: {field} is set before the episode's last step"
        )
    return last


def split_final(rows: npt.NDArray[Any], lengths: IntArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows with one more than `lengths` in each episode -> (n, O) seen before actions, (e, O) seen at the end."""
    ends = np.cumsum(lengths + 1) - 1
    before = np.ones(len(rows), dtype=np.bool_)
    before[ends] = False
    return rows[before], rows[ends]


@dataclass(frozen=True)
class Stretch:
    """Rows of a file that are converted together: whole episodes, or a piece of one."""

    first: int  # episode
    step: int  # of that episode, at which the first row stands
    lengths: IntArray  # (e,) rows of each episode in the stretch
    begin: int  # row
    ends: bool  # whether the last episode ends here

    @property
    def rows(self) -> slice:
        """Return the rows within the file."""
        return slice(self.begin, self.begin + int(self.lengths.sum()))

    @property
    def stops(self) -> IntArray:
        """Return the rows within the stretch after which an episode ends."""
        return np.cumsum(self.lengths)[: len(self.lengths) if self.ends else 0]

    @property
    def episodes(self) -> slice:
        """Return the episodes that end here."""
        return slice(self.first, self.first + len(self.stops))


def stretches(lengths: IntArray, row_bytes: int) -> Iterator[Stretch]:
    """Cut episodes into stretches of at most BLOCK_BYTES and one row or more each."""
    most = max(1, BLOCK_BYTES // max(1, row_bytes))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for first, last in groups(offsets, most):
        begin, end = int(offsets[first]), int(offsets[last])
        if end - begin <= most:
            yield Stretch(first, 0, lengths[first:last], begin, ends=True)
            continue
        for row in range(begin, end, most):
            count = min(most, end - row)
            yield Stretch(first, row - begin, np.array([count]), row, ends=row + count == end)
