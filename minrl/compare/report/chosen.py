"""Settings that a sweep chooses: of each method's combinations the one with the highest mean score."""

from typing import Any

import tomli_w

from minrl.compare.grid.plan import ComparisonPlan, PlannedRun
from minrl.compare.report.table import NONE, Table
from minrl.compare.stats.analysis import Analysis

CHOSEN = "chosen.toml"


def chosen_table(analysis: Analysis) -> Table:
    """Tabulate the chosen combination of each method that a sweep varies, beside its worst; empty without a sweep."""
    rows = []
    for base, scores in _by_base(analysis).items():
        done = _done(scores)
        complete = f"{len(done)} of {len(scores)}"
        if not done:
            rows.append((base, complete, NONE, NONE, NONE))
            continue
        best = _best(done)
        rows.append(
            (base, complete, _settings_text(analysis, base, best), f"{done[best]:.1f}", f"{min(done.values()):.1f}")
        )
    note = (
        "The combination with the highest mean over the tasks, of those that have finished in every task of the common "
        "scale. It is biased upwards, as the highest of several: its score is no result, the settings are."
    )
    return Table("Chosen settings", ("method", "combinations", "chosen", "its mean", "lowest mean"), rows, note)


def chosen_toml(analysis: Analysis) -> str:
    """Write the chosen settings as tables [methods.NAME.FAMILY.TABLE] of a grid; empty without a sweep."""
    tables: dict[str, Any] = {}
    for base, scores in _by_base(analysis).items():
        done = _done(scores)
        if len(done) < len(scores):
            continue
        best = _best(done)
        run = _first(analysis.comparison.plan, best)
        tables[base] = {run.family: _differing(analysis, base, best)}
    return tomli_w.dumps({"methods": tables}) if tables else ""


def chosen_methods(analysis: Analysis) -> set[str]:
    """Return the names of the chosen combinations, one for each method with a finished one."""
    return {_best(done) for scores in _by_base(analysis).values() if (done := _done(scores))}


def _done(scores: dict[str, float | None]) -> dict[str, float]:
    """Return the finished combinations of a method."""
    return {name: score for name, score in scores.items() if score is not None}


def _best(done: dict[str, float]) -> str:
    """Return the combination with the highest mean."""
    return max(done, key=lambda name: done[name])


def _by_base(analysis: Analysis) -> dict[str, dict[str, float | None]]:
    """Return for each swept method its combinations, with the mean over the tasks or None if one is unfinished."""
    scaled = [scores for scores in analysis.tasks if scores.common]
    found: dict[str, dict[str, float | None]] = {}
    for method in analysis.comparison.plan.methods:
        if method.base:
            each = [scores.common.get(method.name) for scores in scaled]
            means = [sum(values.values()) / len(values) for values in each if values]
            is_complete = bool(means) and len(means) == len(analysis.comparison.plan.tasks)
            found.setdefault(method.base, {})[method.name] = sum(means) / len(means) if is_complete else None
    return found


def _differing(analysis: Analysis, base: str, chosen: str) -> dict[str, dict[str, Any]]:
    """Return the settings in which the combinations of a method differ, by table, as the chosen one has them."""
    plan = analysis.comparison.plan
    runs = [_first(plan, method.name) for method in plan.methods if method.base == base]
    own = _first(plan, chosen).settings
    found: dict[str, dict[str, Any]] = {}
    for table, values in own.items():
        for name, value in values.items():
            if name not in _COUNTS and any(run.settings[table].get(name) != value for run in runs):
                found.setdefault(table, {})[name] = value
    return found


# Settings that follow from a budget.
_COUNTS = ("steps", "evaluate_every", "checkpoint_every", "log_every")


def _settings_text(analysis: Analysis, base: str, chosen: str) -> str:
    tables = _differing(analysis, base, chosen)
    return ", ".join(f"{name} = {value}" for table in tables.values() for name, value in table.items())


def _first(plan: ComparisonPlan, method: str) -> PlannedRun:
    return next(run for run in plan.runs if run.method == method)
