"""Checked access to the values of a grid file; errors are one line with the place."""

from collections.abc import Collection
from typing import Any

from minrl.system.names import nearest

Tables = dict[str, Any]


def check_keys(table: Tables, known: Collection[str], where: str) -> None:
    """Raise ValueError for a key that is not in `known`."""
    for key in table:
        if key not in known:
            raise ValueError(f'{where} has no key "{key}"; {nearest(key, known)}')


def table_of(tables: Tables, key: str, where: str) -> Tables:
    """Return a table within another, empty if missing."""
    value = tables.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {key} must be a table, got {value!r}")
    return value


def tables_of(tables: Tables, key: str, where: str) -> dict[str, Tables]:
    """Return a table of tables."""
    found = table_of(tables, key, where)
    return {name: table_of(found, name, f"[{key}] of {where}") for name in found}


def text_of(table: Tables, key: str, default: str, where: str) -> str:
    """Return a text, `default` if missing."""
    value = table.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key} must be text, got {value!r}")
    return value


def choice_of(value: Any, known: Collection[str], kind: str, where: str) -> str:
    """Return `value` if it is one of the `known` names of a `kind`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f'{where}: unknown {kind} "{value}"; {nearest(str(value), known)}')
    return value


def numbers_of(table: Tables, where: str) -> dict[str, float]:
    """Return a table of numbers."""
    for key, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: {key} must be a number, got {value!r}")
    return {key: float(value) for key, value in table.items()}


_MOST_SEEDS = 10_000
_LARGEST_SEED = 2**32 - 1  # of NumPy's global generator


def seeds_of(value: Any, where: str) -> tuple[int, ...]:
    """Return seeds, given as their number or as a list."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        if value > _MOST_SEEDS:
            raise ValueError(f"{where}: seeds is at most {_MOST_SEEDS:,}, got {value!r}")
        return tuple(range(value))
    if isinstance(value, list) and value and all(type(seed) is int and 0 <= seed <= _LARGEST_SEED for seed in value):
        if len(set(value)) == len(value):
            return tuple(value)
        raise ValueError(f"{where}: a seed is named twice in {value}")
    raise ValueError(f"{where}: seeds is how many (3) or which ([0, 1, 2]), got {value!r}")
