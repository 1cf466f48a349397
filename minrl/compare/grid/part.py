"""Part of a comparison's runs, chosen by method and task."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from minrl.compare.grid.plan import ComparisonPlan
from minrl.system.names import nearest


def part_of(plan: ComparisonPlan, methods: Collection[str] = (), tasks: Collection[str] = ()) -> ComparisonPlan:
    """Return the plan with the runs of the named methods and tasks alone.

    Args:
        plan: of the whole comparison; its tables of methods and tasks stay.
        methods: names, of a sweep's combination its own or that of the method that it varies; all without any.
        tasks: names; all without any.

    Raises:
        ValueError: for a name that is not the plan's.
    """
    bases = {method.name: method.base for method in plan.methods}
    _check(methods, {*bases, *bases.values()} - {""}, "method")
    _check(tasks, {task.name for task in plan.tasks}, "task")
    runs = tuple(
        run
        for run in plan.runs
        if (not methods or {run.method, bases[run.method]} & {*methods}) and (not tasks or run.task in tasks)
    )
    return replace(plan, runs=runs)


def _check(names: Iterable[str], known: Collection[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f'the grid has no {kind} "{name}"; {nearest(name, known)}')
