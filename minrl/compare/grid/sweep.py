"""Table [sweep] of a grid: lists of values, of which every combination is a method named by its values."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from minrl.compare.grid.family import Family
from minrl.compare.grid.settings import TRAIN
from minrl.compare.grid.values import Tables
from minrl.system.config import check
from minrl.system.names import nearest

Place = tuple[str, ...]  # of a setting: [table], key, [option]


@dataclass(frozen=True)
class Variant:
    """Combination of the values of a sweep."""

    values: Mapping[Place, Any]
    where: str  # place of the sweep, for errors
    tables: Collection[str]  # with which a place may begin

    @property
    def name(self) -> str:
        """The swept values as a folder's name."""
        return re.sub(r"[^A-Za-z0-9._+=-]", "-", "+".join(f"{name}={value}" for name, value in self._named()))

    @property
    def label(self) -> str:
        """The swept values for tables and plots."""
        return ", ".join(f"{name} {value}" for name, value in self._named())

    def _named(self) -> Iterator[tuple[str, str]]:
        for place, value in self.values.items():
            shown = place[1:] if place[0] in self.tables and len(place) > 1 else place
            if place[0] in self.tables and len(place) == 1 and isinstance(value, dict):
                yield from ((name, _shown(part)) for name, part in value.items())
            else:
                yield ".".join(shown), _shown(value)

    def layer(self, agent: str, family: Family) -> Tables:
        """Return the settings as a layer of tables, for an agent that the other layers choose.

        Raises:
            ValueError: if neither the agent nor its training has such a setting, or a value is impossible.
        """
        kinds = {agent: family.agents[agent], TRAIN: family.settings[agent]}
        known = {table: {field.name for field in fields(kind)} for table, kind in kinds.items()}
        found: Tables = {table: {} for table in kinds}
        for place, value in self.values.items():
            if len(place) == 1 and place[0] in kinds and isinstance(value, dict):
                found[place[0]] |= value  # several settings that change together
                continue
            named = place[:1] if place[0] in kinds and len(place) > 1 else ()
            key, *option = place[len(named) :]
            tables = [table for table in named or kinds if key in known[table]]
            if not tables:
                names = [name for table in named or kinds for name in known[table]]
                raise ValueError(f'{self.where}: {agent} has no setting "{key}"; {nearest(key, names)}')
            if key in (family.source, "seed"):
                raise ValueError(
                    f"{self.where}: {key} belongs to the grid, as {family.source} in [tasks.NAME] and seeds"
                )
            given = found[tables[0]]
            given[key] = {**given.get(key, {}), ".".join(option): value} if option else value
        for table, kind in kinds.items():
            check(kind, found[table], f"{self.where}, table {table}")
            if family.source in found[table] or "seed" in found[table]:
                raise ValueError(f"{self.where}: {family.source} and seed belong to the grid")
        return found


def _shown(value: Any) -> str:
    """Format a value for a folder's name: lists and tables without brackets."""
    if isinstance(value, dict):
        return ",".join(f"{key}={_shown(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ",".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def variants(table: Tables, where: str, tables: Collection[str]) -> list[Variant]:
    """Return all combinations of the lists of a table, the first list slowest; a single empty one of no table.

    Raises:
        ValueError: if a setting has no list of different values.
    """
    lists = dict(_lists(table, (), where))
    found = [Variant(dict(zip(lists, chosen, strict=True)), where, tables) for chosen in product(*lists.values())]
    names = [variant.name for variant in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'{where}: two combinations have the name "{name}"')
    return found


def _lists(table: Tables, place: Place, where: str) -> Iterator[tuple[Place, list[Any]]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _lists(value, (*place, key), where)
        elif not isinstance(value, list) or not value:
            raise ValueError(f"{where}: {'.'.join((*place, key))} is a list of values to try, got {value!r}")
        else:
            yield (*place, key), value
