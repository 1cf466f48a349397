"""Blocks of episodes from any file format, checked and laid end to end.

Shapes: n steps and e episodes of one block; N steps, E episodes, O and A flat widths of the whole set.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.data.episode import BoolArray, FloatArray, IntArray, returns_to_go
from minrl.data.spaces import AnySpace, Leaf, encode, invalid_row, leaves

Arrays = dict[str, npt.NDArray[Any]]
# (name, shape, dtype) -> an array to write into, in memory or mapped from a file.
Allocate = Callable[[str, tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
# (leaf, first episode of the block) -> the leaf's rows of the whole block, as `spaces.as_rows` gives them.
ReadLeaf = Callable[[Leaf], Any]

BLOCK_BYTES = 1 << 26  # bounds what is held beside the result while a large set is converted


@dataclass(frozen=True)
class Block:
    """Whole episodes in order, flattened."""

    lengths: IntArray  # (e,)
    observations: FloatArray  # (n, O)
    final_observations: FloatArray  # (e, O)
    actions: FloatArray  # (n, A)
    rewards: FloatArray  # (n,)
    terminated: BoolArray  # (e,)
    truncated: BoolArray  # (e,)


def in_memory(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The plain way to allocate."""
    return np.empty(shape, dtype=dtype)


def assemble(
    blocks: Iterable[Block],
    *,
    steps: int,
    episodes: int,
    widths: tuple[int, int],
    where: str,
    allocate: Allocate,
) -> Arrays:
    """All blocks end to end in arrays of N = steps rows and E = episodes, as `Episodes` names them.

    `widths` are O and A. Raises ValueError, naming `where`, when the blocks hold another number of either.
    """
    observations = allocate("observations", (steps, widths[0]), np.float32)
    actions = allocate("actions", (steps, widths[1]), np.float32)
    final_observations = allocate("final_observations", (episodes, widths[0]), np.float32)
    rewards = allocate("rewards", (steps,), np.float32)
    terminated = allocate("terminated", (episodes,), np.bool_)
    truncated = allocate("truncated", (episodes,), np.bool_)
    offsets = allocate("offsets", (episodes + 1,), np.int64)
    offsets[0] = 0
    row = episode = 0
    for block in blocks:
        rows, count = len(block.rewards), len(block.lengths)
        if row + rows > steps or episode + count > episodes:
            raise ValueError(
                f"{where}: more data than the metadata says ({episodes} episodes, {steps} steps), "
                f"first seen in episode {min(episode + count, episodes)}"
            )
        observations[row : row + rows] = block.observations
        actions[row : row + rows] = block.actions
        rewards[row : row + rows] = block.rewards
        final_observations[episode : episode + count] = block.final_observations
        terminated[episode : episode + count] = block.terminated
        truncated[episode : episode + count] = block.truncated
        offsets[episode + 1 : episode + count + 1] = row + np.cumsum(block.lengths)
        row, episode = row + rows, episode + count
    if (row, episode) != (steps, episodes):
        raise ValueError(
            f"{where}: holds {episode} episodes with {row} steps, the metadata says {episodes} with {steps}"
        )
    to_go = allocate("returns_to_go", (steps,), np.float32)
    to_go[:] = returns_to_go(rewards, offsets)
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "final_observations": final_observations,
        "offsets": offsets,
        "terminated": terminated,
        "truncated": truncated,
        "returns_to_go": to_go,
    }


def flatten_block(
    space: AnySpace, read: ReadLeaf, lengths: IntArray, *, field: str, where: str, first: int
) -> FloatArray:
    """Read every leaf of a space for a block of episodes, check it and lay the columns side by side.

    `lengths` are the rows of each episode, `first` the number of the block's first episode.
    Raises ValueError naming file, episode, field and step of the first value that is not finite or not in the space.
    """
    parts = leaves(space)
    flat = None if len(parts) == 1 else np.empty((int(lengths.sum()), parts[-1].columns.stop), dtype=np.float32)
    for leaf in parts:
        raw = read(leaf)
        bad = invalid_row(leaf.space, raw)
        if bad is not None:
            name = "/".join([field, *(str(key) for key in leaf.keys)])
            raise ValueError(f"{where}, {locate(lengths, bad, first)}: {describe(raw[bad])} in {name}")
        encoded = encode(leaf.space, raw)
        if flat is None:
            return encoded
        flat[:, leaf.columns] = encoded
    assert flat is not None
    return flat


def describe(values: npt.NDArray[Any]) -> str:
    """What is wrong with a row: NaN, infinite, or an index outside its space."""
    if np.issubdtype(values.dtype, np.floating):
        return "NaN" if np.isnan(values).any() else "infinite value"
    return f"{values.tolist()} outside the declared space"


def check_finite(values: FloatArray, lengths: IntArray, *, field: str, where: str, first: int) -> None:
    """Raise ValueError naming the first value of (n,) that is NaN or infinite."""
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{where}, {locate(lengths, bad, first)}: {describe(values[bad])} in {field}")


def locate(lengths: IntArray, row: int, first: int) -> str:
    """Episode and step of a row within a block whose first episode has the number `first`."""
    stops = np.cumsum(lengths)
    episode = int(np.searchsorted(stops, row, side="right"))
    return f"episode {first + episode}, step {row - int(stops[episode] - lengths[episode])}"


def last_flags(flags: BoolArray, lengths: IntArray, *, field: str, where: str, first: int) -> BoolArray:
    """The flag of each episode's last step, (n,) -> (e,); raises ValueError where one is set before the last step."""
    ends = np.cumsum(lengths) - 1
    last = flags[ends]
    if int(flags.sum()) != int(last.sum()):
        early = flags.copy()
        early[ends] = False
        raise ValueError(
            f"{where}, {locate(lengths, int(np.argmax(early)), first)}: {field} is set before the episode's last step"
        )
    return last


def split_final(rows: FloatArray, lengths: IntArray) -> tuple[FloatArray, FloatArray]:
    """Rows with one more than `lengths` in each episode -> (n, O) seen before actions, (e, O) seen at the end."""
    ends = np.cumsum(lengths + 1) - 1
    before = np.ones(len(rows), dtype=np.bool_)
    before[ends] = False
    return rows[before], rows[ends]


def blocks_of(lengths: IntArray, row_bytes: int) -> list[tuple[int, int]]:
    """Cut episodes into runs [first, last) of at most BLOCK_BYTES, one episode or more each."""
    stops = np.cumsum(lengths)
    per_block = max(1, BLOCK_BYTES // max(1, row_bytes))
    runs, first = [], 0
    while first < len(lengths):
        done = int(stops[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(stops, done + per_block, side="right")))
        runs.append((first, last))
        first = last
    return runs
