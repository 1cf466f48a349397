"""Gymnasium spaces as flat float32 columns, a whole episode at once.

Shapes: T rows, S flat width of a space.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

from minrl.data.episode import FloatArray

AnySpace = Space[Any]


@dataclass(frozen=True)
class Leaf:
    """One space without parts, where it lies in the tree, and its columns in the flat row."""

    keys: tuple[str | int, ...]
    space: AnySpace
    columns: slice

    @property
    def raw_width(self) -> int:
        """Numbers stored for one row before one-hot encoding."""
        return int(np.prod(self.space.shape or (), dtype=np.int64))

    @property
    def raw_dtype(self) -> npt.DTypeLike:
        """Return the type that rows are read as: indices stay whole numbers, bytes stay bytes."""
        if isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete):
            return np.int64
        return np.uint8 if _is_bytes(self.space) else np.float32


def leaves(space: AnySpace) -> list[Leaf]:
    """The parts of a space in the order in which `gymnasium.spaces.flatten` lays them side by side.

    Raises ValueError for a kind of space that has no fixed width (Graph, Sequence) or no meaning here (OneOf).
    """
    result: list[Leaf] = []
    start = 0
    for keys, part in _walk(space, ()):
        known = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Text
        if not isinstance(part, known):
            raise ValueError(f"space {type(part).__name__} at {_path(keys)} cannot be flattened")
        width = int(spaces.flatdim(part))
        result.append(Leaf(keys, part, slice(start, start + width)))
        start += width
    if start == 0:
        raise ValueError(f"space {space} holds no numbers")
    return result


def _walk(space: AnySpace, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], AnySpace]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(part, (*keys, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _walk(part, (*keys, index))
    else:
        yield keys, space


def stored_dtype(space: AnySpace) -> npt.DTypeLike:
    """Return the type that flat rows of observations are kept in: bytes where images fill them, else float32.

    A byte costs a quarter of a float32; choices, flags and letters beside the images are bytes as well.
    """
    parts = [leaf.space for leaf in leaves(space)]
    return np.uint8 if any(map(_is_bytes, parts)) and all(map(_fits_bytes, parts)) else np.float32


def _is_bytes(space: AnySpace) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8


def _fits_bytes(space: AnySpace) -> bool:
    if isinstance(space, spaces.Text):
        return len(space.character_set) <= 255
    return _is_bytes(space) or isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def _path(keys: tuple[str | int, ...]) -> str:
    return "/".join(str(key) for key in keys) or "the top"


def flatten(space: AnySpace, values: Any) -> FloatArray:
    """A stack of T samples (arrays in the space's tree) as (T, S); each row is what `spaces.flatten` gives."""
    columns = []
    for leaf in leaves(space):
        part = values
        for key in leaf.keys:
            part = part[key]
        columns.append(encode(leaf.space, as_rows(leaf, part)))
    return np.concatenate(columns, axis=1)


def as_rows(leaf: Leaf, values: Any) -> Any:
    """Return a leaf's samples as (T, raw width) of its raw type; strings stay a list.

    Numbers that a byte or an index cannot hold stay as they are, for `invalid_row` to find.
    """
    if isinstance(leaf.space, spaces.Text):
        return list(values)
    rows = np.asarray(values).reshape(len(values), leaf.raw_width)
    if rows.dtype != leaf.raw_dtype and leaf.raw_dtype != np.float32:
        with np.errstate(invalid="ignore"):
            whole = rows.astype(leaf.raw_dtype)
        return whole if np.array_equal(whole, rows) else rows
    return rows.astype(leaf.raw_dtype, copy=False)


def invalid_row(space: AnySpace, raw: Any) -> int | None:
    """Return the first row that is NaN, infinite, or no byte or index of the space; None if there is none."""
    if isinstance(space, spaces.Text) or (_is_bytes(space) and raw.dtype == np.uint8):
        return None
    if isinstance(space, spaces.Discrete):
        bad = (raw < space.start) | (raw >= space.start + space.n) | (raw != np.floor(raw))
    elif isinstance(space, spaces.MultiDiscrete):
        shifted = raw - space.start.reshape(1, -1)
        bad = (shifted < 0) | (shifted >= space.nvec.reshape(1, -1)) | (raw != np.floor(raw))
    elif _is_bytes(space):
        bad = ~((raw >= 0) & (raw <= 255) & (raw == np.floor(raw)))
    else:
        bad = ~np.isfinite(raw)
    return int(np.argmax(bad.any(axis=1))) if bad.any() else None


def encode(space: AnySpace, raw: Any, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Return rows of one leaf, (T, raw width), as (T, S) of `dtype`; indices must lie inside the space."""
    if isinstance(space, spaces.Discrete):
        return _one_hot(raw[:, 0] - int(space.start), int(space.n), dtype)
    if isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.reshape(-1)
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        flat = np.zeros((len(raw), int(sizes.sum())), dtype=dtype)
        flat[np.arange(len(raw))[:, None], raw - space.start.reshape(1, -1) + first] = 1.0
        return flat
    if isinstance(space, spaces.Text):
        # Few strings differ within a data set, so Gymnasium's own per-string code runs once for each.
        distinct, inverse = np.unique(np.asarray(raw, dtype=object).astype(str), return_inverse=True)
        table = [np.asarray(spaces.flatten(space, str(text)), dtype=dtype) for text in distinct]
        return np.stack(table)[inverse.reshape(-1)]
    return np.asarray(raw, dtype=dtype)


def _one_hot(indices: npt.NDArray[np.int64], size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    flat = np.zeros((len(indices), size), dtype=dtype)
    flat[np.arange(len(indices)), indices] = 1.0
    return flat


def from_json(text: str) -> AnySpace:
    """A space from Minari's JSON; raises ValueError where it cannot be read."""
    from minari.serialization import deserialize_space

    try:
        space: AnySpace = deserialize_space(text)
    except Exception as error:
        raise ValueError(f"space cannot be read from {text[:80]!r}: {error}") from error
    return space


def to_json(space: AnySpace) -> str:
    """A space in Minari's JSON."""
    from minari.serialization import serialize_space

    return str(serialize_space(space))
