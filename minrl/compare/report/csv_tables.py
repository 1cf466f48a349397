"""The values of a report as CSV, with ten digits: scores of runs, statistics, costs."""

import csv
from collections.abc import Iterable, Sequence
from io import StringIO

from minrl.compare.report.cost import COLUMNS, costs
from minrl.compare.stats.analysis import OVERALL, Analysis
from minrl.compare.stats.scores import in_unit
from minrl.compare.stats.statistics import Estimate

Value = str | int | float | None


def scores_csv(analysis: Analysis) -> str:
    """Write a row for each planned run."""
    head = ("task", "method", "seed", "state", "score", "unit", "score_0_to_100", "mean_return", "standard_error",
            "episodes", "target_return", "step", "environment", "best_checkpoint_score", "best_checkpoint_step",
            "reason")  # fmt: skip
    tasks = {scores.task.name: scores for scores in analysis.tasks}
    rows = []
    for run in analysis.comparison.runs:
        planned, last, best, scores = run.planned, run.last, run.best, tasks[run.planned.task]
        row: list[Value] = [planned.task, planned.method, planned.seed, run.state]
        if last is not None:
            row += [in_unit(last, scores.unit), scores.unit]
            row.append(scores.common[planned.method][planned.seed] if scores.common else None)
            row += [last.mean_return, last.standard_error, last.episodes, last.target_return, last.step]
            row.append(last.environment)
            row += [None, None] if best is None else [in_unit(best, scores.unit), best.step]
        else:
            row += [None] * 11
        rows.append([*row, run.reason])
    return _text(head, rows)


def statistics_csv(analysis: Analysis) -> str:
    """Write a row for each statistic: of one task or all, of a method or a pair."""
    head = ("measure", "task", "method", "other", "value", "low", "high", "count", "p", "p_adjusted")
    rows: list[list[Value]] = []
    for (task, method), cell in analysis.cells.items():
        rows.append(["mean", task, method, None, cell.mean, None, None, cell.count, None, None])
        rows.append(["standard_error", task, method, None, cell.error, None, None, cell.count, None, None])
        rows.append(["interquartile_mean", task, method, None, *_ends(cell.middle), cell.count, None, None])
        rows.append(["best_checkpoint_mean", task, method, None, cell.best, None, None, cell.count, None, None])
    runs = analysis.overall.runs
    for method, total in analysis.totals.items():
        rows.append(["interquartile_mean", OVERALL, method, None, *_ends(total.middle), runs, None, None])
        rows.append(["mean", OVERALL, method, None, *_ends(total.mean), runs, None, None])
    for found in analysis.improvements:
        ends = _ends(found.probability)
        rows.append(["probability_of_improvement", OVERALL, found.method, found.other, *ends, found.tasks, None, None])
    for test in analysis.tests:
        result = test.result
        row: list[Value] = ["paired_difference", test.where, test.method, test.other, result.difference, None, None]
        rows.append([*row, result.pairs, result.p, test.adjusted])
    return _text(head, rows)


def cost_csv(analysis: Analysis) -> str:
    """Write a row for each task and method."""
    head = ("task", "method", "runs", *(name for name, _, _, _ in COLUMNS), "device")
    return _text(head, [[row.task, row.method, row.runs, *row.numbers, row.device] for row in costs(analysis)])


def _ends(estimate: Estimate) -> tuple[float, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


def _text(head: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    output = StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[f"{cell:.10g}" if isinstance(cell, float) else cell for cell in row] for row in rows])
    return output.getvalue()
