"""Flattening of Gymnasium spaces: batches of samples to rows of columns and back.

Shapes: T or B rows, S flat width of a space.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

AnySpace = Space[Any]

WIDEST = 1 << 24  # columns of a flat row: as many as a picture of 4096 x 4096 pixels has


@dataclass(frozen=True)
class Leaf:
    """Space without parts: its keys in the tree, and its columns in the flat row."""

    keys: tuple[str | int, ...]
    space: AnySpace
    columns: slice

    @property
    def raw_width(self) -> int:
        """Elements of one row before one-hot encoding."""
        return int(np.prod(self.space.shape or (), dtype=np.int64))

    @property
    def raw_dtype(self) -> npt.DTypeLike:
        """Type of rows before encoding: int64 for indices, uint8 for images, else float32."""
        if isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete):
            return np.int64
        return np.uint8 if _is_bytes(self.space) else np.float32


def leaves(space: AnySpace) -> list[Leaf]:
    """List the parts of a space in the order in which `gymnasium.spaces.flatten` concatenates them.

    The characters of a Text are numbered in alphabetical order, as JSON does not keep another.

    Raises:
        ValueError: for a kind of space that has no fixed width (Graph, Sequence, text of unknown length) or no meaning
            here (OneOf), and for more than `WIDEST` columns.
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
        check_width(start)
    if start == 0:
        raise ValueError(f"space {space} has no elements")
    return result


def check_width(numbers: int) -> None:
    """Raise ValueError if a step of a space has more than `WIDEST` numbers."""
    if numbers > WIDEST:
        raise ValueError(f"a space of {numbers:,} values a step; at most {WIDEST:,} can be read")


def walk(space: AnySpace, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], AnySpace]]:
    """Yield the spaces without parts in the tree, each with its keys."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from walk(part, (*keys, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from walk(part, (*keys, index))
    else:
        yield keys, space


def stored_dtype(space: AnySpace) -> npt.DTypeLike:
    """Return the type of stored observations: uint8 if images, choices, flags and text are all there is, else float32.

    A byte takes a quarter of a float32.
    """
    parts = [leaf.space for leaf in leaves(space)]
    return np.uint8 if any(map(_is_bytes, parts)) and all(map(_fits_bytes, parts)) else np.float32


def block_dtype(space: AnySpace) -> npt.DTypeLike | None:
    """Return the type to convert observations to: uint8, or None to keep that of `as_rows`."""
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
    """Return True if samples of a space are strings: a Text, or another package's class such as MissionSpace."""
    if isinstance(space, spaces.Text):
        return True
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return False
    if space.dtype is not None:
        return bool(np.issubdtype(space.dtype, np.str_))
    try:
        return isinstance(copy.deepcopy(space).sample(), str)  # a copy, as sampling advances the generator
    except NotImplementedError:
        return False


def flatten(space: AnySpace, values: Any, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Flatten T samples (arrays in the space's tree) to (T, S) of `dtype`, each row as `spaces.flatten` has it."""
    columns = []
    for leaf in leaves(space):
        part = values
        for key in leaf.keys:
            part = part[key]
        columns.append(encode(leaf.space, as_rows(leaf, part), dtype))
    return np.concatenate(columns, axis=1)


def as_rows(leaf: Leaf, values: Any) -> Any:
    """Reshape a leaf's samples to (T, raw width) of its raw type; strings stay a list.

    Values that a byte or an index cannot hold stay unchanged, for `invalid_row` to find. Those of a Box that float32
    may not hold, float64 and integers of more than 16 bits, become float64.
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
    """Find the first row that is NaN, infinite, or outside the space's bytes, indices or texts; None if valid."""
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
        ValueError: for a string that is longer than its space allows or has other characters.
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
        # A data set has few distinct strings: Gymnasium's per-string code runs once for each.
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
    """Return the bounds of an integer Box in float64, inside the range of its type.

    The largest int64 is no float64: rounded up, it would wrap around to the smallest.
    """
    bounds = [np.asarray(bound).astype(np.float64) for bound in (space.low, space.high)]
    kind: Any = space.dtype
    largest = float(np.iinfo(kind).max)
    if int(largest) > np.iinfo(kind).max:
        bounds = [np.minimum(bound, np.nextafter(largest, 0.0)) for bound in bounds]
    return bounds[0], bounds[1]


def flattener(space: AnySpace, dtype: npt.DTypeLike) -> Callable[[Any], npt.NDArray[Any]]:
    """Return `flatten` for one space and type; for a plain Box without the walk through parts at each call."""
    if type(space) is not spaces.Box:
        return partial(flatten, space, dtype=dtype)
    width = leaves(space)[0].raw_width
    return lambda values: np.asarray(values, dtype=dtype).reshape(len(values), width)


def unflatten(space: AnySpace, rows: npt.NDArray[Any], *, bounded: bool = True) -> Any:
    """Convert flat rows (B, S) to a batch of samples in the structure of the space.

    With `bounded` the columns of a Box are rounded for whole numbers and clipped to its bounds.
    """
    parts = {leaf.keys: _decode(leaf.space, rows[:, leaf.columns], bounded) for leaf in leaves(space)}
    return nested(space, (), parts)


def unflattener(space: AnySpace) -> Callable[[npt.NDArray[Any]], Any]:
    """Return `unflatten` for one space; for a plain Box of real numbers without the walk through parts."""
    if type(space) is not spaces.Box or np.issubdtype(space.dtype, np.integer):
        return partial(unflatten, space)
    shape, low, high, kind = (-1, *space.shape), space.low, space.high, space.dtype
    return lambda rows: np.clip(rows.reshape(shape), low, high).astype(kind)


def nested(space: AnySpace, keys: tuple[str | int, ...], parts: dict[tuple[str | int, ...], Any]) -> Any:
    """Return the parts below `keys`, by their paths, in the structure of the space."""
    if isinstance(space, spaces.Dict):
        return {key: nested(part, (*keys, key), parts) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nested(part, (*keys, i), parts) for i, part in enumerate(space.spaces))
    return parts[keys]


def _decode(space: AnySpace, rows: npt.NDArray[Any], bounded: bool) -> Any:
    """Convert rows of one leaf, (B, P), to a batch of its samples; the inverse of `encode`."""
    if isinstance(space, spaces.Box):
        rows, low, high = rows.reshape(-1, *space.shape), space.low, space.high
        if bounded and np.issubdtype(space.dtype, np.integer):
            rows, (low, high) = np.rint(rows), whole_bounds(space)
        return (np.clip(rows, low, high) if bounded else rows).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return rows.argmax(1).astype(space.dtype) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        cuts = np.cumsum(space.nvec.reshape(-1))[:-1]
        chosen = np.stack([part.argmax(1) for part in np.split(rows, cuts, axis=1)], axis=1)
        return (chosen.reshape(-1, *space.shape) + space.start).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return (rows > 0.5).reshape(-1, *space.shape).astype(space.dtype)
    return tuple(spaces.unflatten(space, row) for row in rows)
