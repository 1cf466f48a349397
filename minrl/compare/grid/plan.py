"""The plan of a comparison (tasks, methods, seeds, settings), written to and read from its folder."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from minrl.compare.grid.budget import BUDGET, Budget, read_budget
from minrl.runs.folder import GRID, RUNS, STATE
from minrl.runs.side_files import intact, read_json, read_summary, write_json
from minrl.system.digests import check_comment, with_comment
from minrl.system.files import replacing
from minrl.system.messages import one_line
from minrl.system.text_files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")


@dataclass(frozen=True)
class ComparedTask:
    """Task of a comparison: a data set, or an environment.

    Scores are normalised by the data set's reference scores, or without them by `low` and `high`, the returns that
    count as 0 and 100.
    """

    name: str
    family: str  # "offline" or "online"
    source: str  # the data set's name or the environment's id
    label: str  # for tables and plots
    published: Mapping[str, float] = field(default_factory=dict)  # scores that others have published
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Method:
    """Agent with its settings, a column of the comparison."""

    name: str
    label: str
    base: str = ""  # of a combination of a sweep: the name of the method that it varies


@dataclass(frozen=True)
class PlannedRun:
    """Training run of one method on one task with one seed."""

    task: str
    method: str
    seed: int
    family: str
    agent: str
    settings: Mapping[str, Mapping[str, Any]]  # tables [AGENT] and [train], complete, as in the run's config

    @property
    def folder(self) -> Path:
        """The run's folder within the comparison's."""
        return Path(RUNS, self.task, self.method, f"seed_{self.seed}")

    @property
    def key(self) -> str:
        """The folder as text: the run's name in `state.json`."""
        return self.folder.as_posix()

    @property
    def steps(self) -> int:
        """Gradient steps offline, environment steps online."""
        return int(self.settings["train"]["steps"])


@dataclass(frozen=True)
class ComparisonPlan:
    """Tasks, methods, seeds and all runs of a comparison."""

    title: str
    tasks: tuple[ComparedTask, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    runs: tuple[PlannedRun, ...]  # by seed, so that an interrupted comparison has few seeds of everything
    sources: Mapping[str, str] = field(default_factory=dict)  # published method -> where its scores are from
    budget: Budget | None = None  # instead of the runs' own numbers of steps


@dataclass(frozen=True)
class NotDone:
    """Reason why a planned run has no result."""

    state: str  # "failed" or "skipped"
    reason: str


def is_done(run: Path) -> bool:
    """Return True if the run in this folder has finished, its evaluation did not fail, and its summary can be read."""
    try:
        summary = read_summary(run)
    except ValueError:
        return False
    return summary is not None and failure_of(summary) is None


def failure_of(summary: Mapping[str, Any]) -> str | None:
    """Return the error of the evaluation in a run's summary; None without one."""
    failure = summary.get("evaluation_failure")
    return None if failure is None else f"its evaluation failed: {failure}"


def check_name(name: str, where: str) -> None:
    """Raise ValueError if `name` cannot name a folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f'{where}: "{name}" names a folder: use letters, digits and . _ + = - (and a label for other text)'
        )


def write_plan(plan: ComparisonPlan, folder: Path, *, products: str = "torch") -> None:
    """Write `grid.toml`: the grid with every setting of every run, and the matmul library."""
    tables: dict[str, Any] = {
        "matrix_products": products,
        "title": plan.title,
        "seeds": list(plan.seeds),
        "published": dict(plan.sources),
        "tasks": {task.name: _without_none(task) for task in plan.tasks},
        "methods": {method.name: {"label": method.label, "base": method.base} for method in plan.methods},
        "settings": {task.name: {} for task in plan.tasks},
    }
    if plan.budget is not None:
        tables[BUDGET] = plan.budget.table()
    for run in plan.runs:
        train = {key: value for key, value in run.settings["train"].items() if key != "seed"}
        settings = {"agent": run.agent, **run.settings, "train": train}
        tables["settings"][run.task].setdefault(run.method, settings)
    with replacing(folder / GRID) as temporary:
        temporary.write_text(with_comment(tomli_w.dumps(tables)), encoding="utf-8")


def read_plan(folder: Path) -> ComparisonPlan:
    """Read the plan of a comparison's folder."""
    path = folder / GRID
    if not path.is_file():
        raise ValueError(f"{folder} is no comparison's folder: it holds no {GRID}")
    tables = _tables(path)
    try:
        tasks = tuple(
            ComparedTask(name=name, **{"published": {}, **values}) for name, values in tables["tasks"].items()
        )
        methods = tuple(
            Method(name, values["label"], values.get("base", "")) for name, values in tables["methods"].items()
        )
        seeds = tuple(tables["seeds"])
        runs = tuple(
            _run(task, method.name, seed, tables["settings"][task.name][method.name])
            for seed in seeds
            for task in tasks
            for method in methods
        )
        budget = read_budget(tables.get(BUDGET, {}), str(path))
        return ComparisonPlan(tables["title"], tasks, methods, seeds, runs, tables["published"], budget)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def saved_library(folder: Path) -> str | None:
    """Return the comparison's matmul library; None for a new folder, or if its `grid.toml` is damaged."""
    path = folder / GRID
    tables = intact(path, lambda: _tables(path), None) if path.is_file() else None
    return None if tables is None else tables.get("matrix_products")


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(check_comment(read_text(path)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error


def write_state(state: Mapping[str, NotDone], folder: Path) -> None:
    """Write `state.json`: the runs without a result, and the reason."""
    values = {key: vars(state[key]) for key in sorted(state)}
    write_json(folder / STATE, values)


def read_state(folder: Path) -> dict[str, NotDone]:
    """Read the runs without a result by their keys; empty without `state.json`, or if it is damaged, with a warning."""
    try:
        values = read_json(folder / STATE, _check_state) or {}
    except ValueError as error:
        print(f"minrl: {one_line(error)}: why runs have no result is not known", file=sys.stderr)
        return {}
    return {key: NotDone(**value) for key, value in values.items()}


def _check_state(values: Any) -> None:
    for value in values.values():
        if not isinstance(NotDone(**value).reason, str):
            raise TypeError("a reason is no text")


def _run(task: ComparedTask, method: str, seed: int, tables: Mapping[str, Any]) -> PlannedRun:
    agent = tables["agent"]
    settings = {agent: tables[agent], "train": {**tables["train"], "seed": seed}}
    return PlannedRun(task.name, method, seed, task.family, agent, settings)


def _without_none(task: ComparedTask) -> dict[str, Any]:
    values = {**vars(task), "published": dict(task.published)}
    return {key: value for key, value in values.items() if value is not None and key != "name"}
