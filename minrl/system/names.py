"""Names that a user types: looked up, and answered with the nearest right one where there is none."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean "x"?' where a known name is near, else the list of all that are known."""
    names = sorted(known)
    match = get_close_matches(name, names, n=1, cutoff=0.5)
    return f'did you mean "{match[0]}"?' if match else f"choose from {', '.join(names)}"


def choose(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`; a ValueError with the nearest known name where there is none."""
    if name not in table:
        raise ValueError(f'unknown {kind} "{name}"; {nearest(name, table)}')
    return table[name]


def check_options(function: Callable[..., Any], options: Mapping[str, Any], owner: str) -> None:
    """A ValueError if `options` holds a name that is no keyword-only parameter of `function`."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise ValueError(f'{owner} has no option "{name}"; {nearest(name, known)}')
