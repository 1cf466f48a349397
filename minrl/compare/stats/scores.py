"""Scores of a comparison: within each task, and over tasks on a common scale.

Shapes: N seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from minrl.compare.grid.plan import ComparedTask
from minrl.compare.stats.results import Comparison, RunRecord, Score
from minrl.compare.stats.statistics import Array, Strata

Unit = Literal["normalised score", "return"]
BySeed = Mapping[int, float]
# With more methods than this, each is compared with the first one alone.
ALL_PAIRS = 6


@dataclass(frozen=True)
class TaskScores:
    """Scores of a task by method and seed."""

    task: ComparedTask
    unit: Unit
    scale: str  # description of 0 and 100 on the common scale; empty without one
    shown: Mapping[str, BySeed]  # of the last checkpoints, in `unit`
    best: Mapping[str, BySeed]  # of the best checkpoints, in `unit`
    common: Mapping[str, BySeed]  # of the last checkpoints on the common scale; empty without one
    digits: int  # after the point

    def text(self, value: float) -> str:
        """Format a score with its significant digits."""
        return f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Overall:
    """Scores over all tasks: in each task the seeds that every method has finished."""

    tasks: tuple[TaskScores, ...]
    methods: tuple[str, ...]
    strata: Mapping[str, Strata]  # by method, for each task (N,)
    seeds: Mapping[str, Sequence[int]]  # by task's name, those of its scores
    left_out: tuple[str, ...] = ()  # tasks, methods and seeds, each with the reason

    @property
    def runs(self) -> int:
        """Number of runs of each method."""
        return sum(len(scores) for scores in self.strata[self.methods[0]]) if self.methods else 0


def task_scores(comparison: Comparison) -> list[TaskScores]:
    """Collect the scores of each task, in the plan's order."""
    return [_of_task(comparison, task) for task in comparison.plan.tasks]


def overall(tasks: Sequence[TaskScores], methods: Sequence[str]) -> Overall:
    """Collect the tasks on the common scale, and in each the seeds that all methods with any score there share."""
    scaled = [scores for scores in tasks if scores.common]
    taking_part = tuple(m for m in methods if any(scores.common.get(m) for scores in scaled))
    left_out = [_no_scale(scores) for scores in tasks if not scores.common]
    left_out += [f"{method}: no finished run in these tasks" for method in methods if method not in taking_part]
    kept: dict[str, TaskScores] = {}
    seeds_of: dict[str, list[int]] = {}
    strata: dict[str, list[Array]] = {method: [] for method in taking_part}
    for scores in scaled:
        seeds = common_seeds([scores.common[method] for method in taking_part])
        finished = {seed for method in taking_part for seed in scores.common[method]}
        if not seeds:
            left_out.append(f"{scores.task.label}: no seed that every method has finished")
            continue
        if finished - set(seeds):
            without = ", ".join(map(str, sorted(finished - set(seeds))))
            left_out.append(f"{scores.task.label}, seed {without}: not finished by every method")
        kept[scores.task.name], seeds_of[scores.task.name] = scores, seeds
        for method in taking_part:
            strata[method].append(np.array([scores.common[method][seed] for seed in seeds]))
    return Overall(tuple(kept.values()), taking_part if kept else (), strata, seeds_of, tuple(left_out))


def pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """List the pairs of methods to compare: all, or each with the first one where they are many."""
    if len(methods) <= ALL_PAIRS:
        return list(combinations(methods, 2))
    return [(methods[0], other) for other in methods[1:]]


def common_seeds(scores: Sequence[BySeed]) -> list[int]:
    """Return the seeds that all of them hold, ascending."""
    return sorted(set.intersection(*map(set, scores))) if scores else []


def values(scores: BySeed) -> Array:
    """Return scores (N,) in the order of the seeds."""
    return np.array([scores[seed] for seed in sorted(scores)], dtype=np.float64)


def _of_task(comparison: Comparison, task: ComparedTask) -> TaskScores:
    runs = [run for run in comparison.runs_of(task.name) if run.last is not None]
    is_normalized = bool(runs) and all(run.last is not None and run.last.normalized is not None for run in runs)
    unit: Unit = "normalised score" if is_normalized else "return"
    methods = [method.name for method in comparison.plan.methods]
    shown = {m: _by_seed(comparison.runs_of(task.name, m), "last", unit) for m in methods}
    best = {m: _by_seed(comparison.runs_of(task.name, m), "best", unit) for m in methods}
    common, scale = _common(task, unit, shown)
    everything = [v for scores in (*shown.values(), *best.values()) for v in scores.values()]
    largest = max((abs(v) for v in [*everything, *task.published.values()]), default=0.0)
    return TaskScores(task, unit, scale, shown, best, common, _digits(task, is_normalized or not runs, largest))


def _digits(task: ComparedTask, is_normalized: bool, largest: float) -> int:
    if largest >= 100 or (is_normalized and task.family == "offline"):
        return 1
    return 2 if largest >= 10 else 3


def _by_seed(runs: Sequence[RunRecord], which: Literal["last", "best"], unit: Unit) -> BySeed:
    found = {run.planned.seed: run.last if which == "last" else run.best for run in runs if run.last is not None}
    return {seed: in_unit(score, unit) for seed, score in found.items() if score is not None}


def in_unit(score: Score, unit: Unit) -> float:
    """Return an evaluation's score in the task's unit."""
    if unit == "return" or score.normalized is None:
        return score.mean_return
    return score.normalized


def _common(task: ComparedTask, unit: Unit, shown: Mapping[str, BySeed]) -> tuple[Mapping[str, BySeed], str]:
    if unit == "normalised score":
        return shown, "the data set's reference scores: 0 a random agent, 100 an expert"
    if task.low is None or task.high is None:
        return {}, ""
    low, span = task.low, task.high - task.low
    common = {m: {seed: 100.0 * (value - low) / span for seed, value in s.items()} for m, s in shown.items()}
    return common, f"by the grid: a return of {task.low:g} is 0, of {task.high:g} is 100"


def _no_scale(scores: TaskScores) -> str:
    if not any(scores.shown.values()):
        return f"{scores.task.label}: no finished run"
    return (
        f"{scores.task.label}: no reference scores (low and high in the grid's [tasks.{scores.task.name}], the returns "
        f"that count as 0 and 100, would include it)"
    )
