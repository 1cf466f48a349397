"""Learning curves of a comparison: mean and standard error over seeds, over steps or over seconds of training.

Steps of offline runs are those of the trajectories that they see, as batches of methods differ; a gradient step of rows
of 6 x 500 steps counts 3,000. A point stands for the same step of all seeds; over seconds it lies at the mean time that
they took to reach it.

Shapes: K points of a run, P points of a curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from minrl.compare.stats.analysis import Analysis
from minrl.compare.stats.results import Row, RunRecord
from minrl.compare.stats.scores import TaskScores
from minrl.compare.stats.statistics import Array

Over = Literal["steps", "seconds"]
SECONDS = "time/time_elapsed"
NORMALIZED, RETURN, ROLLOUT = "eval/normalized_score", "eval/mean_reward", "rollout/ep_rew_mean"
# With fewer evaluations than this a run's curve is the return of its training episodes, where there is one.
FEWEST = 3
Points = tuple[Array, Array, Array]  # of a run: steps, x, values, each (K,)


@dataclass(frozen=True)
class Curve:
    """Learning curve of one method in one task."""

    x: Array  # (P,)
    mean: Array  # (P,) over seeds
    error: Array  # (P,) standard error over seeds, 0 for a single one
    seeds: int


@dataclass(frozen=True)
class TaskCurves:
    """Learning curves of a task by method, and the quantity that they show."""

    column: str  # of the log
    what: str  # its name for the axis
    curves: dict[str, Curve]


def learning_curves(analysis: Analysis, scores: TaskScores, over: Over) -> TaskCurves:
    """Compute the curves of all methods that have finished runs in a task; none where the logs hold no evaluation."""
    runs = {
        m: [r for r in analysis.comparison.runs_of(scores.task.name, m) if r.last is not None] for m in analysis.labels
    }
    logs = {m: [(run, run.log()) for run in found] for m, found in runs.items()}
    column = _column(scores, [log for found in logs.values() for _, log in found])
    curves = {}
    for method, found in logs.items():
        points = [points for run, log in found if (points := _points(run, log, column, over)) is not None]
        if points:
            curves[method] = _mean(points)
    names = {NORMALIZED: "normalised score", RETURN: "return", ROLLOUT: "return while training"}
    return TaskCurves(column, names[column], curves)


def _column(scores: TaskScores, logs: Sequence[Sequence[Row]]) -> str:
    evaluation = NORMALIZED if scores.unit == "normalised score" else RETURN
    fewest = min((sum(evaluation in row for row in log) for log in logs), default=0)
    rolls = bool(logs) and all(any(ROLLOUT in row for row in log) for log in logs)
    return ROLLOUT if fewest < FEWEST and rolls and evaluation == RETURN else evaluation


def _points(run: RunRecord, log: Sequence[Row], column: str, over: Over) -> Points | None:
    """Extract a run's points from its log, ascending steps; None without any, or without a clock for seconds."""
    pairs = sorted((row[run.counter], row[column]) for row in log if column in row)
    if not pairs:
        return None
    steps, values = np.array(pairs, dtype=np.float64).T
    places = steps * run.data_of_step if over == "steps" else _seconds(run, log, steps)
    return None if places is None else (steps, places, values)


def _seconds(run: RunRecord, log: Sequence[Row], steps: Array) -> Array | None:
    """Interpolate the training time at steps; without a clock in the log, shares of the total; None without either."""
    clock = sorted((row[run.counter], row[SECONDS]) for row in log if SECONDS in row)
    if clock:
        times: Array = np.interp(steps, *np.array(clock, dtype=np.float64).T)
        return times
    if run.cost is None or run.cost.seconds is None or run.last is None:
        return None
    return steps * (run.cost.seconds / run.last.step)


def _mean(runs: Sequence[Points]) -> Curve:
    """Average over the steps that all runs share, linearly interpolated; over their last points where none are
    shared.
    """
    first, last = max(steps[0] for steps, _, _ in runs), min(steps[-1] for steps, _, _ in runs)
    if first > last:
        runs, first = [(np.array([last]), places[-1:], values[-1:]) for _, places, values in runs], last
    every = np.unique(np.concatenate([steps for steps, _, _ in runs]))
    shared = every[(every >= first) & (every <= last)]
    places = np.array([np.interp(shared, steps, x) for steps, x, _ in runs])
    values = np.array([np.interp(shared, steps, y) for steps, _, y in runs])
    error = np.std(values, axis=0, ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else np.zeros(len(shared))
    return Curve(places.mean(axis=0), values.mean(axis=0), error, len(runs))
