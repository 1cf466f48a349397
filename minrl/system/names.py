"""Look-up of names that a user types; errors name the nearest known one."""

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return 'did you mean "x"?' for a near known name, else an empty text."""
    match = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f'did you mean "{match[0]}"?' if match else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return 'did you mean "x"?' for a near known name, else the list of all known names."""
    names = sorted(known)
    return did_you_mean(name, names) or f"choose from {', '.join(names)}"


def choose(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`; raise ValueError with the nearest known name if there is none."""
    if name not in table:
        raise ValueError(f'unknown {kind} "{name}"; {nearest(name, table)}')
    return table[name]


def check_options(function: Callable[..., Any], options: Mapping[str, Any], owner: str) -> None:
    """Raise ValueError unless `options` are keyword-only parameters of `function`, with values of their annotations."""
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    try:
        hints = get_type_hints(function)
    except NameError:  # an annotation that only a type checker can read
        hints = {}
    for name, value in options.items():
        if name not in known:
            raise ValueError(f'{owner} has no option "{name}"; {nearest(name, known)}')
        if name in hints and not _is_a(hints[name], value):
            kind = inspect.formatannotation(hints[name])
            raise ValueError(f"{owner}: {name} must be of type {kind}, such as {known[name]!r}, got {value!r}")


def _is_a(hint: Any, value: Any) -> bool:
    """Return True if `value` is of the type `hint`: lists count as tuples, whole numbers as real ones.

    Choices of a Literal are left to the function, and so is what is none of a number, a bool, a text and their tuples.
    """
    parts = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_a(part, value) for part in parts)
    if get_origin(hint) is tuple and Ellipsis not in parts:
        fits = isinstance(value, list | tuple) and len(value) == len(parts)
        return fits and all(_is_a(part, one) for part, one in zip(parts, value, strict=True))
    kinds = {bool: bool, int: Integral, float: Real, str: str, type(None): type(None)}
    if hint not in kinds:
        return True
    return isinstance(value, kinds[hint]) and (hint is bool or not isinstance(value, bool))
