"""A plan's runs with as many steps as its budget allows."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from minrl.compare.grid.budget import Budget
from minrl.compare.grid.family import Family
from minrl.compare.grid.plan import ComparisonPlan, PlannedRun
from minrl.compare.grid.settings import TRAIN
from minrl.system.config import build, to_plain

# Of a run: a killed one loses at most this share of its work.
_CHECKPOINTS = 20


def within(
    plan: ComparisonPlan, families: Mapping[str, Family], seconds_of: Callable[[PlannedRun], float | None]
) -> ComparisonPlan:
    """Return the plan with each run's steps at its budget; evaluations and checkpoints are spread over them.

    Args:
        plan: with or without a budget.
        families: of tasks.
        seconds_of: CPU seconds of one step of a run, None if its task is not here; asked for a CPU budget alone.
    """
    if plan.budget is None:
        return plan
    runs = tuple(_within(run, families[run.family], plan.budget, seconds_of) for run in plan.runs)
    return replace(plan, runs=runs)


def _within(
    run: PlannedRun, family: Family, budget: Budget, seconds_of: Callable[[PlannedRun], float | None]
) -> PlannedRun:
    """Return the run with its settings at the budget."""
    train = dict(run.settings[TRAIN])
    if budget.data_steps is not None:
        options = build(family.agents[run.agent], run.settings[run.agent], run.key)
        train["steps"] = -(
            -budget.data_steps // family.data_of_step(options, build(family.settings[run.agent], train, run.key))
        )
    else:
        seconds = seconds_of(run)
        if seconds is not None and budget.cpu_seconds is not None:
            train["steps"] = max(1, round(budget.cpu_seconds / seconds))
    train["evaluate_every"] = -(-train["steps"] // budget.evaluations)
    train["checkpoint_every"] = -(-train["steps"] // _CHECKPOINTS)
    if "log_every" in train:
        train["log_every"] = min(train["log_every"], train["evaluate_every"])
    settings = to_plain(build(family.settings[run.agent], train, run.key))
    return replace(run, settings={**run.settings, TRAIN: settings})
