"""Look-up of names that a user types; errors name the nearest known one."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

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
    """Raise ValueError if `options` holds a name that is no keyword-only parameter of `function`."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise ValueError(f'{owner} has no option "{name}"; {nearest(name, known)}')
