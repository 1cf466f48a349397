"""Comparison of spaces with the same parts in another order or form, and reordering of columns.

Shapes: N steps, E episodes, O and A flat widths.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from minrl.data.episode import Episodes
from minrl.data.spaces import AnySpace, is_text, leaves, path_name, walk

Kind = Literal["observation", "action"]


def mismatch(ours: AnySpace, theirs: AnySpace, kind: Kind) -> str | None:
    """Describe how an environment's space differs from the one that an agent was trained for; None if it fits.

    Parts are matched by their keys, in any order. These may differ: precision and bounds of a Box, the class of a
    space (another package's in place of Gymnasium's), characters and length of text, the shape of a vector, and in an
    observation Discrete(n) against MultiDiscrete([n]).

    Args:
        ours: the agent's.
        theirs: the environment's.
        kind: which of the two spaces.
    """
    known, found = dict(walk(ours)), dict(walk(theirs))
    for keys in [*known, *found]:
        if keys not in found or keys not in known:
            return f"only the {'agent' if keys in known else 'environment'} has a part {path_name(keys)}"
    for keys, part in known.items():
        if not _alike(part, found[keys], kind):
            return f"at {path_name(keys)} the agent has {part}, the environment {found[keys]}"
    return None


def _alike(ours: AnySpace, theirs: AnySpace, kind: Kind) -> bool:
    if is_text(ours) or is_text(theirs):
        return is_text(ours) and is_text(theirs)
    choices = _choices(ours), _choices(theirs)
    if choices != (None, None):
        return choices[0] == choices[1] and (kind == "observation" or ours.shape == theirs.shape)
    if not (_is_numbers(ours) and _is_numbers(theirs)):
        return False
    if isinstance(ours, spaces.MultiBinary) != isinstance(theirs, spaces.MultiBinary) and not (
        _is_binary(ours) and _is_binary(theirs)
    ):
        return False
    axes = [tuple(n for n in part.shape or () if n != 1) for part in (ours, theirs)]
    # A vector may have another shape; an image with its channels on another axis does not match.
    return axes[0] == axes[1] or (min(map(len, axes)) < 2 and np.prod(axes[0]) == np.prod(axes[1]))


def _choices(space: AnySpace) -> list[tuple[int, int]] | None:
    """Return the first choice of each column and how many there are; None for a space without choices."""
    if isinstance(space, spaces.Discrete):
        return [(int(space.start), int(space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        return list(zip(space.start.reshape(-1).tolist(), space.nvec.reshape(-1).tolist(), strict=True))
    return None


def _is_numbers(space: AnySpace) -> bool:
    return isinstance(space, spaces.Box | spaces.MultiBinary)


def _is_binary(space: Any) -> bool:
    """Return True if a space is a MultiBinary, or a Box of integers from 0 to 1."""
    if isinstance(space, spaces.MultiBinary):
        return True
    return space.dtype.kind in "biu" and bool(np.all(space.low == 0) and np.all(space.high == 1))


def arranged(space: AnySpace, like: AnySpace) -> AnySpace:
    """Return `space` with the keys of its Dicts in the order of `like`; other differences stay.

    It is `space` itself if the order is the same.
    """
    parts: list[AnySpace]
    if isinstance(space, spaces.Dict) and isinstance(like, spaces.Dict):
        if space.spaces.keys() != like.spaces.keys():
            return space
        parts = [arranged(space.spaces[key], part) for key, part in like.spaces.items()]
        moved = list(space.spaces) != list(like.spaces)
        changed = any(part is not space.spaces[key] for key, part in zip(like.spaces, parts, strict=True))
        # Pairs, as Gymnasium sorts the keys of a plain dict.
        return spaces.Dict(list(zip(like.spaces, parts, strict=True))) if moved or changed else space
    if isinstance(space, spaces.Tuple) and isinstance(like, spaces.Tuple) and len(space) == len(like):
        parts = [arranged(part, other) for part, other in zip(space.spaces, like.spaces, strict=True)]
        return spaces.Tuple(parts) if any(a is not b for a, b in zip(parts, space.spaces, strict=True)) else space
    return space


def with_columns_of(episodes: Episodes, observation_space: AnySpace, action_space: AnySpace) -> Episodes:
    """Return `episodes` with columns in the order of other spaces of the same parts, matched by their keys.

    They are `episodes` themselves if the order is the same; else reordered arrays are copies.

    Raises:
        ValueError: if the spaces have other parts.
    """
    pairs = (episodes.observation_space, observation_space), (episodes.action_space, action_space)
    for found, known in pairs:
        reason = mismatch(known, found, "action")
        if reason is not None:
            raise ValueError(f"{episodes.name} is no longer the data set that the agent was trained on: {reason}")
    seen, done = (_columns(found, known) for found, known in pairs)
    if seen is not None:
        episodes = replace(
            episodes,
            observations=episodes.observations[:, seen],
            final_observations=episodes.final_observations[:, seen],
            observation_space=observation_space,
        )
    if done is not None:
        episodes = replace(episodes, actions=episodes.actions[:, done], action_space=action_space)
    return episodes


def _columns(found: AnySpace, known: AnySpace) -> npt.NDArray[np.int64] | None:
    """Return the column of `found` for each column of `known`; None if the order is the same."""
    places = {leaf.keys: leaf.columns for leaf in leaves(found)}
    slices = [places[leaf.keys] for leaf in leaves(known)]
    columns = np.concatenate([np.arange(part.start, part.stop) for part in slices])
    return None if np.array_equal(columns, np.arange(len(columns))) else columns
