"""Execution of a comparison's plan: finished runs are skipped, interrupted ones resumed, failures reported."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from minrl.compare.grid.family import Family
from minrl.compare.grid.plan import ComparisonPlan, PlannedRun, is_done, read_state, write_plan
from minrl.compare.run.execute import Outcome, build_settings, changed_setting, execute
from minrl.compare.run.matmul import chosen_library, matmul_library
from minrl.compare.run.progress import Progress, duration, score_of
from minrl.compare.run.queue import RunQueue
from minrl.data.task import Task
from minrl.system.messages import reason_of
from minrl.system.signals import Stopped, StopRequest

Families = Mapping[str, Family]
# Executes the runs of a queue; returns the signal that stopped it, if any.
Backend = Callable[[RunQueue, Families, Path, Progress], int | None]


@dataclass(frozen=True)
class Survey:
    """Finished, pending and skipped runs of a plan, before anything is run."""

    done: tuple[PlannedRun, ...]
    to_do: tuple[PlannedRun, ...]
    skipped: Mapping[str, str]  # keys of runs whose task is unavailable with their settings, with the reason


@dataclass(frozen=True)
class ComparisonOutcome:
    """Failed runs of a comparison, and the signal that stopped it."""

    failed: Mapping[str, str]  # keys of runs, with the reason
    signal: int | None  # that stopped it


def survey(plan: ComparisonPlan, families: Families, out: Path, *, looks_only: bool = False) -> Survey:
    """List finished runs, pending ones, and those skipped because a data set or environment is missing.

    With `looks_only` nothing is downloaded, no environment is made and no module that a file names is imported.

    Raises:
        ValueError: if no agent can be made of a method's settings on a task.
    """
    done = tuple(run for run in plan.runs if is_done(out / run.folder))
    rest = [run for run in plan.runs if not is_done(out / run.folder)]
    missing: dict[tuple[str, str], str] = {}
    for task in plan.tasks:
        first_runs = {run.method: run for run in reversed(rest) if run.task == task.name}
        reasons = _missing(list(first_runs.values()), families, looks_only)
        missing |= {(task.name, method): reason for method, reason in reasons.items()}
    skipped = {run.key: missing[run.task, run.method] for run in rest if (run.task, run.method) in missing}
    return Survey(done, tuple(run for run in rest if run.key not in skipped), skipped)


def _missing(runs: list[PlannedRun], families: Families, looks_only: bool) -> dict[str, str]:
    """Return why the task of these runs, one for each method, is unavailable; check that each method fits it.

    A method may change settings of the task, such as its environment's keywords: reasons are by method.
    """
    found: dict[str, Task | str | None] = {}  # by the settings that name the task
    reasons = {}
    for run in runs:
        family = families[run.family]
        options, settings = build_settings(run, family)
        named = repr([getattr(settings, name) for name in family.keys.values()])
        if named not in found:
            try:
                if not looks_only:
                    family.allow(settings)
                found[named] = family.look(settings) if looks_only else family.find(settings)
            except ValueError as error:
                found[named] = reason_of(error)
        task = found[named]
        if isinstance(task, str):
            reasons[run.method] = task
        if not isinstance(task, Task):
            continue
        try:
            family.check(run.agent, options, task)
        except ValueError as error:
            raise ValueError(f"method {run.method} on task {run.task}: {error}") from error
    return reasons


def changed_runs(plan: ComparisonPlan, families: Families, out: Path) -> dict[str, str]:
    """Return the keys of runs whose folder holds one with other settings, with the first setting that differs."""
    return {run.key: text for run in plan.runs if (text := _changed(run, families, out)) is not None}


def check_unchanged(plan: ComparisonPlan, families: Families, out: Path, *, redo: Iterable[PlannedRun] = ()) -> None:
    """Raise ValueError if a folder holds a run with other settings, unless it is one to `redo`: remove that."""
    found = changed_runs(plan, families, out)
    again = {run.key for run in redo}
    kept = {key: text for key, text in found.items() if key not in again}
    if kept:
        key, text = next(iter(kept.items()))
        more = f", and {len(kept) - 1} more" if len(kept) > 1 else ""
        raise ValueError(
            f"{out / key} holds a run with other settings ({text}{more}): "
            f"choose another --out, or --redo to remove and retrain such runs"
        )
    for key in found:
        shutil.rmtree(out / key)


def _changed(run: PlannedRun, families: Families, out: Path) -> str | None:
    try:
        return changed_setting(run, families[run.family], out)
    except ValueError as error:
        return reason_of(error)


def compare(plan: ComparisonPlan, families: Families, out: Path, backend: Backend, found: Survey) -> ComparisonOutcome:
    """Execute the pending runs.

    Args:
        plan: of the whole comparison, written into the folder.
        families: of tasks.
        out: the comparison's folder.
        backend: that executes the runs.
        found: by `survey`, of the plan or of a part of it.
    """
    products = chosen_library(out)
    write_plan(plan, out, products=products)
    tried = {run.key for run in (*found.done, *found.to_do)} | found.skipped.keys()
    others = {key: reason for key, reason in read_state(out).items() if key not in tried}
    queue = RunQueue(found.to_do, found.skipped, out, others)
    finished = len(found.done)
    with matmul_library(products), Progress(found.to_do, families, out, finished=finished) as progress:
        signal = backend(queue, families, out, progress)
    return ComparisonOutcome(queue.failed, signal)


def run_here(queue: RunQueue, families: Families, out: Path, progress: Progress) -> int | None:
    """Execute one run after another in this process."""
    with StopRequest() as request:
        try:
            with request.at_once():
                while (run := queue.take()) is not None:
                    outcome = execute(run, families[run.family], out)
                    if outcome.signal is not None:
                        return outcome.signal
                    report_attempt(run, outcome, queue.close(run, outcome), out, progress)
        except Stopped:
            return request.signal
    return None


def report_attempt(run: PlannedRun, outcome: Outcome, again: bool, out: Path, progress: Progress) -> None:
    """Report how an attempt at a run ended."""
    if outcome.error is None:
        progress.ended(run, f"{score_of(out / run.folder)}, {duration(outcome.seconds)}")
    elif again:
        progress.say(f"{run.key} failed and will be retried: {outcome.error}")
    else:
        progress.ended(run, f"failed: {outcome.error}")
