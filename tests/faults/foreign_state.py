"""Mutants of a checkpoint: one field dropped, of another type, shape or size, or not finite."""

import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch

Path = tuple[Any, ...]


def fields(content: Any, at: Path = ()) -> Iterator[Path]:
    """List the places of all values in nested dicts and lists; of a long list only the first."""
    if at:
        yield at
    if isinstance(content, dict):
        for name, value in content.items():
            yield from fields(value, (*at, name))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content[:2]):
            yield from fields(value, (*at, number))


def mutant(content: dict[str, Any], at: Path, choice: random.Random) -> tuple[dict[str, Any], str]:
    """Return a copy of a checkpoint's content with another value at one place, and what that is."""
    changed = deepcopy(content)
    *way, last = at
    place: Any = changed
    for name in way:
        if isinstance(place[name], tuple):
            place[name] = list(place[name])
        place = place[name]
    options: dict[str, Any] = {"dropped": None, **others(place[last])}
    name = choice.choice(sorted(options))
    if name != "dropped":
        place[last] = options[name]
    elif isinstance(place, dict):
        del place[last]
    else:
        place.pop(last)
    return changed, name


def others(value: Any) -> dict[str, Any]:
    """Return values that might stand in place of another one."""
    found: dict[str, Any] = {"none": None, "text": "x", "list": [1], "table": {"a": 1}, "number": 10**18, "below": -1}
    if isinstance(value, torch.Tensor):
        found |= {
            "flat": value.reshape(-1)[:-1],
            "larger": torch.zeros(*value.shape, 3, dtype=value.dtype),
            "empty": torch.zeros(0),
            "double": value.double(),
            "whole": value.long() if value.dtype != torch.int64 else value.float(),
            "sparse": value.reshape(1, -1).to_sparse(),
            "text": "x",
        }
        if value.is_floating_point():
            found["nan"] = torch.full_like(value, torch.nan)
    if isinstance(value, float | int) and not isinstance(value, bool):
        found |= {"nan": float("nan"), "infinite": float("inf"), "float": value + 0.5}
    if isinstance(value, list | tuple):
        found |= {"shorter": list(value)[:-1], "longer": [*value, *list(value)[-1:]], "empty": []}
    if isinstance(value, str):
        found |= {"longer": value + "x", "odd": "\n\0é" * 40}
    return found
