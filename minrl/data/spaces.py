"""Gymnasium spaces as flat float32 columns, a whole episode at once.

Shapes: T rows, S flat width of a space.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

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
    """List the parts of a space in the order in which `gymnasium.spaces.flatten` lays them side by side.

    The characters of a Text are numbered in alphabetical order, as JSON keeps no other.

    Raises:
        ValueError: for a kind of space that has no fixed width (Graph, Sequence, text of unknown length) or no meaning
            here (OneOf).
    """
    result: list[Leaf] = []
    start = 0
    for keys, part in walk(space):
        known = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Text
        if not isinstance(part, known):
            reason = ": it does not say how long its text can be" if is_text(part) else ""
            raise ValueError(f"space {type(part).__name__} at {path_name(keys)} cannot be flattened{reason}")
        if isinstance(part, spaces.Text):
            part = spaces.Text(part.max_length, min_length=part.min_length, charset=part.characters)
        width = int(spaces.flatdim(part))
        result.append(Leaf(keys, part, slice(start, start + width)))
        start += width
    if start == 0:
        raise ValueError(f"space {space} holds no numbers")
    return result


def walk(space: AnySpace, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], AnySpace]]:
    """Yield the parts that have no parts of their own, each with the keys that lead to it."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from walk(part, (*keys, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from walk(part, (*keys, index))
    else:
        yield keys, space


def stored_dtype(space: AnySpace) -> npt.DTypeLike:
    """Return the type that flat rows of observations are kept in: bytes where images fill them, else float32.

    A byte costs a quarter of a float32; choices, flags and letters beside the images are bytes as well.
    """
    parts = [leaf.space for leaf in leaves(space)]
    return np.uint8 if any(map(_is_bytes, parts)) and all(map(_fits_bytes, parts)) else np.float32


def block_dtype(space: AnySpace) -> npt.DTypeLike | None:
    """Return the type to convert observations to: bytes, or None for that in which they are read (see `as_rows`)."""
    return np.uint8 if stored_dtype(space) == np.uint8 else None


def _is_bytes(space: AnySpace) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8


def _fits_bytes(space: AnySpace) -> bool:
    if isinstance(space, spaces.Text):
        return len(space.character_set) <= 255
    return _is_bytes(space) or isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def path_name(keys: tuple[str | int, ...]) -> str:
    """Return "a/0/b", or "the top" for a space that is no part of another."""
    return "/".join(str(key) for key in keys) or "the top"


def is_text(space: AnySpace) -> bool:
    """Return True if the values of a space are strings: a Text, or another package's own class such as MissionSpace."""
    if isinstance(space, spaces.Text):
        return True
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return False
    if space.dtype is not None:
        return bool(np.issubdtype(space.dtype, np.str_))
    try:
        return isinstance(copy.deepcopy(space).sample(), str)  # a copy, as sampling moves the generator on
    except NotImplementedError:
        return False


def flatten(space: AnySpace, values: Any, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Flatten T samples (arrays in the space's tree) to (T, S); each row is what `spaces.flatten` gives, as `dtype`."""
    columns = []
    for leaf in leaves(space):
        part = values
        for key in leaf.keys:
            part = part[key]
        columns.append(encode(leaf.space, as_rows(leaf, part), dtype))
    return np.concatenate(columns, axis=1)


def as_rows(leaf: Leaf, values: Any) -> Any:
    """Return a leaf's samples as (T, raw width) of its raw type; strings stay a list.

    Numbers that a byte or an index cannot hold stay as they are, for `invalid_row` to find. Those of a Box that
    float32 may not hold, float64 and whole numbers of more than 16 bits, become float64.
    """
    if isinstance(leaf.space, spaces.Text):
        return list(values)
    rows = np.asarray(values).reshape(len(values), leaf.raw_width)
    if rows.dtype != leaf.raw_dtype and leaf.raw_dtype != np.float32:
        with np.errstate(invalid="ignore"):
            whole = rows.astype(leaf.raw_dtype)
        return whole if np.array_equal(whole, rows) else rows
    wide = rows.dtype == np.float64 or (rows.dtype.kind in "iu" and rows.dtype.itemsize > 2)
    kept = np.float64 if wide and isinstance(leaf.space, spaces.Box) else leaf.raw_dtype
    return rows.astype(kept, copy=False)


def invalid_row(space: AnySpace, raw: Any) -> int | None:
    """Find the first row that is NaN, infinite, or no byte, index or text of the space; None if there is none."""
    if isinstance(space, spaces.Text):
        bad_texts = {text for text in set(raw) if not _holds_text(space, str(text))}
        return next((row for row, text in enumerate(raw) if text in bad_texts), None) if bad_texts else None
    if _is_bytes(space) and raw.dtype == np.uint8:
        return None
    if isinstance(space, spaces.Discrete):
        bad = (raw < space.start) | (raw >= space.start + space.n) | (raw != np.floor(raw))
    elif isinstance(space, spaces.MultiDiscrete):
        shifted = raw - space.start.reshape(1, -1)
        bad = (shifted < 0) | (shifted >= space.nvec.reshape(1, -1)) | (raw != np.floor(raw))
    elif _is_bytes(space):
        bad = ~((raw >= 0) & (raw <= 255) & (raw == np.floor(raw)))
    else:
        bad = ~(np.abs(raw) <= np.finfo(np.float32).max)  # NaN is not
    return int(np.argmax(bad.any(axis=1))) if bad.any() else None


def encode(space: AnySpace, raw: Any, dtype: npt.DTypeLike | None = np.float32) -> npt.NDArray[Any]:
    """Encode rows of one leaf, (T, raw width), as (T, S) of `dtype`; indices must lie inside the space.

    None keeps the type of a Box's rows; the other spaces are float32 then.

    Raises:
        ValueError: for a string that is longer than its space says or has other characters.
    """
    if isinstance(space, spaces.Box):
        return np.asarray(raw, dtype=dtype)
    dtype = np.float32 if dtype is None else dtype
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
        for text in distinct:
            if not _holds_text(space, text):
                raise ValueError(f"the text {str(text)!r} does not fit {space}")
        table = [np.asarray(spaces.flatten(space, str(text)), dtype=dtype) for text in distinct]
        return np.stack(table)[inverse.reshape(-1)]
    return np.asarray(raw, dtype=dtype)


def _holds_text(space: spaces.Text, text: str) -> bool:
    return len(text) <= space.max_length and space.character_set.issuperset(text)


def _one_hot(indices: npt.NDArray[np.int64], size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    flat = np.zeros((len(indices), size), dtype=dtype)
    flat[np.arange(len(indices)), indices] = 1.0
    return flat


def whole_bounds(space: spaces.Box) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the bounds of a Box of whole numbers in float64, none beyond what the Box's own type holds.

    The largest int64 is no float64: rounded up, it would wrap around to the smallest.
    """
    bounds = [np.asarray(bound).astype(np.float64) for bound in (space.low, space.high)]
    kind: Any = space.dtype
    largest = float(np.iinfo(kind).max)
    if int(largest) > np.iinfo(kind).max:
        bounds = [np.minimum(bound, np.nextafter(largest, 0.0)) for bound in bounds]
    return bounds[0], bounds[1]


def arranged(space: AnySpace, like: AnySpace) -> AnySpace:
    """Return `space` with the keys of its Dicts in the order of those of `like`; what differs otherwise stays as it is.

    It is `space` itself where nothing moves.
    """
    parts: list[AnySpace]
    if isinstance(space, spaces.Dict) and isinstance(like, spaces.Dict):
        if space.spaces.keys() != like.spaces.keys():
            return space
        parts = [arranged(space.spaces[key], part) for key, part in like.spaces.items()]
        moved = list(space.spaces) != list(like.spaces)
        changed = any(part is not space.spaces[key] for key, part in zip(like.spaces, parts, strict=True))
        # Pairs: of a plain dict Gymnasium sorts the keys.
        return spaces.Dict(list(zip(like.spaces, parts, strict=True))) if moved or changed else space
    if isinstance(space, spaces.Tuple) and isinstance(like, spaces.Tuple) and len(space) == len(like):
        parts = [arranged(part, other) for part, other in zip(space.spaces, like.spaces, strict=True)]
        return spaces.Tuple(parts) if any(a is not b for a, b in zip(parts, space.spaces, strict=True)) else space
    return space


def from_json(text: str) -> AnySpace:
    """Read a space from Minari's JSON; the keys of a Dict keep their order, which Minari's own reader sorts.

    Raises:
        ValueError: where it cannot be read.
    """
    try:
        return _from_plain(json.loads(text))
    except Exception as error:
        raise ValueError(f"space cannot be read from {text[:80]!r}: {error}") from error


def _from_plain(values: dict[str, Any]) -> AnySpace:
    from minari.serialization import deserialize_space

    if values["type"] == "Dict":
        return spaces.Dict([(key, _from_plain(part)) for key, part in values["subspaces"].items()])
    if values["type"] == "Tuple":
        return spaces.Tuple([_from_plain(part) for part in values["subspaces"]])
    space: AnySpace = deserialize_space(values)
    return space


def to_json(space: AnySpace) -> str:
    """Write a space as Minari's JSON."""
    from minari.serialization import serialize_space

    return str(serialize_space(space))
