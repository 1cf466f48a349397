"""Comparison of two spaces by what their values hold, so that flattened rows of both mean the same."""

from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from minrl.data.spaces import AnySpace, is_text, path_name, walk

Kind = Literal["observation", "action"]


def mismatch(ours: AnySpace, theirs: AnySpace, kind: Kind) -> str | None:
    """Say in what an environment's space differs from the one that an agent was trained for; None where it fits.

    Parts are matched by their keys, in whatever order the keys come. Free to differ are precision and bounds of a Box,
    the class of a space (a class of another package against Gymnasium's), the characters and the length of text, and
    how a vector is laid out; of an observation also Discrete(n) against MultiDiscrete([n]).

    Args:
        ours: the agent's.
        theirs: the environment's.
        kind: which of the two spaces it is.
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
    # A row may be reshaped; an image whose channels lie elsewhere is another image.
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
    """Return True for a MultiBinary and for a Box of whole numbers from 0 to 1."""
    if isinstance(space, spaces.MultiBinary):
        return True
    return space.dtype.kind in "biu" and bool(np.all(space.low == 0) and np.all(space.high == 1))
