"""Reader of a grid file: methods × sweep × tasks × seeds."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from minrl.cells import CELLS
from minrl.compare.grid.budget import BUDGET, read_budget
from minrl.compare.grid.family import Family
from minrl.compare.grid.plan import ComparedTask, ComparisonPlan, Method, PlannedRun, check_name
from minrl.compare.grid.settings import LAYER, TRAIN, chosen_agent, merged, read_layer
from minrl.compare.grid.sweep import Variant, variants
from minrl.compare.grid.values import Tables, check_keys, choice_of, numbers_of, seeds_of, table_of, tables_of, text_of
from minrl.system.config import read_tables
from minrl.system.names import nearest

_GRID = ("title", "seeds", "cells", "published", "tasks", "methods", "sweep", BUDGET)
_TASK = ("label", "low", "high", "published")
_METHOD = ("label", "cell", "tasks", "sweep")
_SEEDS = 3


def read_grid(path: Path, families: Mapping[str, Family], *, seeds: int | None = None) -> ComparisonPlan:
    """Read a grid file into a plan.

    Args:
        path: the file; relative names of config files and of `hdf5:` data sets in it start from its folder.
        families: of tasks, by name.
        seeds: number of seeds, counted from 0, instead of the file's.

    Raises:
        ValueError: one line with the place, if the file cannot be read, a key is unknown or a setting impossible.
    """
    return _Grid(path, read_tables(path, "grid"), families).plan(seeds)


class _Grid:
    def __init__(self, path: Path, tables: Tables, families: Mapping[str, Family]) -> None:
        self.path, self.where, self.tables, self.families = path, str(path), tables, families
        check_keys(tables, [*_GRID, *families], self.where)

    def plan(self, count: int | None) -> ComparisonPlan:
        """Build the plan, runs ordered by seed."""
        seeds = seeds_of(self.tables.get("seeds", _SEEDS) if count is None else count, self.where)
        tasks = [self._task(*named) for named in tables_of(self.tables, "tasks", self.where).items()]
        methods = self._variants()
        if not tasks or not methods:
            missing = "[methods.NAME], [sweep] or cells = [...]" if tasks else "[tasks.NAME]"
            raise ValueError(f"{self.where} has nothing to compare: it needs {missing}")
        settings = [(t, m.name, *self._settings(t, base, variant)) for t in tasks for m, base, variant in methods]
        runs = [
            PlannedRun(task.name, name, seed, task.family, agent, {**tables, TRAIN: {**tables[TRAIN], "seed": seed}})
            for seed in seeds
            for task, name, agent, tables in settings
        ]
        return ComparisonPlan(
            title=text_of(self.tables, "title", self.path.stem, self.where),
            tasks=tuple(tasks),
            methods=tuple(method for method, _, _ in methods),
            seeds=seeds,
            runs=tuple(runs),
            sources=self._sources(),
            budget=read_budget(table_of(self.tables, BUDGET, self.where), f"[{BUDGET}] of {self.where}"),
        )

    def _task(self, name: str, table: Tables) -> ComparedTask:
        where = f"[tasks.{name}] of {self.where}"
        check_name(name, where)
        families = {family.source: key for key, family in self.families.items()}
        agents = [agent for family in self.families.values() for agent in family.agents]
        keys = {key: None for family in self.families.values() for key in family.keys}
        check_keys(table, [*_TASK, *keys, *LAYER, *agents], where)
        given = [source for source in families if source in table]
        if not given:
            raise ValueError(f"{where} names its {' or its '.join(families)}")
        # With both, it learns from the first and is evaluated in the other.
        family = families[given[0]]
        own = self.families[family]
        check_keys(table, [*_TASK, *own.keys, *LAYER, *own.agents], where)
        scale = numbers_of({key: table[key] for key in ("low", "high") if key in table}, where)
        if len(scale) == 1 or (scale and not scale["low"] < scale["high"]):
            raise ValueError(f"{where}: low and high are the returns that count as 0 and 100, low < high")
        return ComparedTask(
            name=name,
            family=family,
            source=self._source(text_of(table, given[0], "", where), where),
            label=text_of(table, "label", name, where),
            published=numbers_of(table_of(table, "published", where), f"published in {where}"),
            low=scale.get("low"),
            high=scale.get("high"),
        )

    def _source(self, name: str, where: str) -> str:
        kind, _, rest = name.partition(":")
        if not name or (kind in ("minari", "d4rl", "hdf5") and not rest):
            raise ValueError(f'{where}: "{name}" is incomplete')
        # The grid means the same from any folder.
        return f"hdf5:{(self.path.parent / Path(rest).expanduser()).absolute()}" if kind == "hdf5" else name

    def _sources(self) -> dict[str, str]:
        table = table_of(self.tables, "published", self.where)
        return {name: text_of(table, name, "", f"[published] of {self.where}") for name in table}

    def _methods(self) -> Iterator[tuple[str, Tables]]:
        """Yield methods by name, those of `cells` first, each with its cell where the grid names one."""
        cells = self.tables.get("cells", [])
        if not isinstance(cells, list) or len(set(map(str, cells))) < len(cells):
            raise ValueError(f"{self.where}: cells is a list of different names, got {cells!r}")
        for cell in cells:
            choice_of(cell, CELLS, "cell", f"cells of {self.where}")
        tasks = list(table_of(self.tables, "tasks", self.where))
        empty: dict[str, Tables] = {cell: {} for cell in cells}
        for name, table in (empty | tables_of(self.tables, "methods", self.where)).items():
            where = f"[methods.{name}] of {self.where}"
            check_name(name, where)
            check_keys(table, [*_METHOD, *self.families], where)
            for task in tables_of(table, "tasks", where):
                if task not in tasks:
                    raise ValueError(f'{where} has settings for a task "{task}"; {nearest(task, tasks)}')
            method = {"cell": name, **table} if name in cells else table
            if "cell" in method:
                choice_of(method["cell"], CELLS, "cell", where)
            yield name, method

    def _variants(self) -> list[tuple[Method, tuple[str, Tables], Variant]]:
        """Return each method with each combination of the sweep, and the name and table that it comes from."""
        shared = table_of(self.tables, "sweep", self.where)
        bases = dict(self._methods()) or ({"": {}} if shared else {})
        tables = [TRAIN, *(agent for family in self.families.values() for agent in family.agents)]
        found = []
        for name, table in bases.items():
            own_lists = "sweep" in table
            place = f"[methods.{name}.sweep] of {self.where}" if own_lists else f"[sweep] of {self.where}"
            swept = table_of(table, "sweep", place) if own_lists else shared
            # The name of a single method is redundant.
            kept = bool(name) and not (swept and len(bases) == 1 and "label" not in table)
            label = text_of(table, "label", name, name)
            own = [(name, label)] if kept else []
            for variant in variants(swept, place, tables):
                parts = [*own, *([(variant.name, variant.label)] if swept else [])]
                whole, text = "+".join(part for part, _ in parts), ", ".join(text for _, text in parts)
                check_name(whole, place)
                found.append(
                    (Method(whole, text, base=(name or "sweep") if len(variant.values) else ""), (name, table), variant)
                )
        return found

    def _settings(self, task: ComparedTask, base: tuple[str, Tables], variant: Variant) -> tuple[str, Tables]:
        """Return the agent and its complete tables."""
        name, method = base
        family = self.families[task.family]
        tables = list(self._layers(task, name, method))
        chosen = [
            choice_of(table["agent"], family.agents, "agent", where) if "agent" in table else None
            for table, where in tables
        ]
        first = next(iter(family.agents))
        lower = chosen[0] or first, chosen[1] or chosen[0] or first
        upper = chosen[3] or chosen[2] or lower[1]
        layers = [
            read_layer(table, where, self.path.parent, family, agent)
            for (table, where), agent in zip(tables, (*lower, upper, upper), strict=True)
        ]
        if "cell" in method:
            # Below the method's own tables, above the task's.
            layers.insert(2, {agent: {"cell": method["cell"]} for agent in family.agents})
        try:
            if variant.values:
                layers.append(variant.layer(chosen_agent(layers, family), family))
            return merged(layers, family, task.source)
        except ValueError as error:
            method_of = f"method {name} on task" if name else "task"
            raise ValueError(f"{self.where}, {method_of} {task.name}: {error}") from error

    def _layers(self, task: ComparedTask, name: str, method: Tables) -> Iterator[tuple[Tables, str]]:
        """Yield the four layers of settings, later ones override, and the place of each."""
        key, method_place = task.family, f"[methods.{name}] of {self.where}"
        table = table_of(table_of(self.tables, "tasks", self.where), task.name, self.where)
        family = self.families[key]
        own = {k: v for k, v in table.items() if k not in (*_TASK, *family.keys)}
        said = {family.keys[k]: v for k, v in table.items() if k in family.keys and k != family.source}
        if said:
            train = table_of(own, TRAIN, f"[tasks.{task.name}] of {self.where}")
            if twice := sorted(set(said) & set(train)):
                raise ValueError(f"[tasks.{task.name}] of {self.where} sets {twice[0]} twice")
            own[TRAIN] = {**train, **said}
        tasks = table_of(method, "tasks", method_place)
        yield table_of(self.tables, key, self.where), f"[{key}] of {self.where}"
        yield own, f"[tasks.{task.name}] of {self.where}"
        yield table_of(method, key, method_place), f"[methods.{name}.{key}] of {self.where}"
        yield table_of(tasks, task.name, method_place), f"[methods.{name}.tasks.{task.name}] of {self.where}"
