"""All statistics of a comparison, computed once for tables, plots and page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from minrl.compare.stats import statistics
from minrl.compare.stats.results import Comparison, RunRecord
from minrl.compare.stats.scores import Overall, TaskScores, common_seeds, overall, pairs, task_scores, values
from minrl.compare.stats.statistics import Estimate, PairedTest

OVERALL = "overall"


@dataclass(frozen=True)
class TableCell:
    """Scores of one method in one task."""

    count: int  # of seeds
    mean: float
    error: float | None  # standard error over seeds
    middle: Estimate  # interquartile mean
    best: float | None  # mean of the best checkpoints
    best_error: float | None


@dataclass(frozen=True)
class Total:
    """Scores of one method over all tasks of the common scale."""

    middle: Estimate  # interquartile mean
    mean: Estimate


@dataclass(frozen=True)
class Improvement:
    """Probability that a run of `method` scores above one of `other`."""

    method: str
    other: str
    tasks: int  # in which both have runs
    probability: Estimate


@dataclass(frozen=True)
class Test:
    """Paired test of two methods in a task, or over all tasks."""

    method: str
    other: str
    where: str  # a task's name, or `OVERALL`
    result: PairedTest
    adjusted: float | None = None  # p after Holm, for all tests of the report


@dataclass(frozen=True)
class Analysis:
    """Runs of a comparison and the statistics computed from them."""

    comparison: Comparison
    tasks: Sequence[TaskScores]
    overall: Overall
    cells: Mapping[tuple[str, str], TableCell]  # by task and method, those with a score
    totals: Mapping[str, Total]  # by method, those that take part
    improvements: Sequence[Improvement]
    tests: Sequence[Test]

    @property
    def labels(self) -> dict[str, str]:
        """The methods' labels by their names, in the plan's order."""
        return {method.name: method.label for method in self.comparison.plan.methods}

    @property
    def runs(self) -> list[RunRecord]:
        """The runs with a score."""
        return [run for run in self.comparison.runs if run.last is not None]

    @property
    def overall_runs(self) -> list[RunRecord]:
        """The runs that enter the statistics over all tasks."""
        seeds, methods = self.overall.seeds, self.overall.methods
        planned = [(run, run.planned) for run in self.runs]
        return [run for run, p in planned if p.method in methods and p.seed in seeds.get(p.task, ())]


def analyse(comparison: Comparison) -> Analysis:
    """Compute scores, intervals, probabilities and tests of a comparison's finished runs."""
    methods = [method.name for method in comparison.plan.methods]
    tasks = task_scores(comparison)
    total = overall(tasks, methods)
    cells = {(s.task.name, m): _cell(s, m) for s in tasks for m in methods if s.shown[m]}
    return Analysis(
        comparison=comparison,
        tasks=tasks,
        overall=total,
        cells=cells,
        totals={m: _total(total, m) for m in total.methods},
        improvements=[found for a, b in pairs(methods) if (found := _improvement(tasks, a, b)) is not None],
        tests=_adjusted([test for a, b in pairs(methods) for test in _tests(tasks, total, a, b)]),
    )


def _cell(scores: TaskScores, method: str) -> TableCell:
    last = values(scores.shown[method])
    mean, error = statistics.mean_and_error(last)
    best = values(scores.best[method])
    best_mean, best_error = statistics.mean_and_error(best) if len(best) else (None, None)
    return TableCell(len(last), mean, error, statistics.interquartile_mean([last]), best_mean, best_error)


def _total(total: Overall, method: str) -> Total:
    strata = total.strata[method]
    return Total(statistics.interquartile_mean(strata), statistics.mean(strata))


def _improvement(tasks: Sequence[TaskScores], method: str, other: str) -> Improvement | None:
    """Compare over all tasks: which of two runs scores higher does not depend on the task's scale."""
    both = [(values(s.shown[method]), values(s.shown[other])) for s in tasks if s.shown[method] and s.shown[other]]
    if not both:
        return None
    ours, theirs = zip(*both, strict=True)
    return Improvement(method, other, len(both), statistics.probability_of_improvement(ours, theirs))


def _tests(tasks: Sequence[TaskScores], total: Overall, method: str, other: str) -> list[Test]:
    """Test in each task in its own unit, then over the tasks of the common scale."""
    tests = []
    for scores in tasks:
        ours, theirs = scores.shown[method], scores.shown[other]
        if seeds := common_seeds([ours, theirs]):
            paired = [values({seed: side[seed] for seed in seeds}) for side in (ours, theirs)]
            tests.append(Test(method, other, scores.task.name, statistics.paired_test(paired[:1], paired[1:])))
    if method in total.methods and other in total.methods and len(total.tasks) > 1:
        result = statistics.paired_test(total.strata[method], total.strata[other])
        tests.append(Test(method, other, OVERALL, result))
    return tests


def _adjusted(tests: Sequence[Test]) -> list[Test]:
    decided = [test.result.p for test in tests if test.result.p is not None]
    adjusted = iter(statistics.holm(decided))
    return [replace(test, adjusted=next(adjusted) if test.result.p is not None else None) for test in tests]
