"""The tables of a report: scores, intervals, probabilities of improvement, paired tests, missing runs."""

from collections.abc import Sequence

from minrl.compare.report import protocol
from minrl.compare.report.table import NONE, Table
from minrl.compare.stats.analysis import OVERALL, Analysis, TableCell, Test
from minrl.compare.stats.scores import ALL_PAIRS, TaskScores
from minrl.compare.stats.statistics import FEWEST, SIGNIFICANCE, Estimate, pairs_needed

# With more columns than this, the table is transposed.
WIDEST = 9


def tables(analysis: Analysis) -> list[Table]:
    """Build all tables that depend on scores alone, without empty ones."""
    found = [
        score_table(analysis),
        overall_table(analysis),
        detail_table(analysis),
        improvement_table(analysis),
        test_table(analysis),
        missing_table(analysis),
        protocol.task_table(analysis),
        protocol.method_table(analysis),
    ]
    return [table for table in found if table.rows]


def score_table(analysis: Analysis) -> Table:
    """Tabulate scores: a row for each task, a column for each method, then published scores."""
    labels, published = analysis.labels, _published(analysis)
    head = ["task", "score", *labels.values(), *(f"{name} (published)" for name in published)]
    rows = []
    for scores in analysis.tasks:
        ours = [_mean(scores, analysis.cells.get((scores.task.name, method))) for method in labels]
        theirs = [scores.text(p[n]) if n in (p := scores.task.published) else NONE for n in published]
        rows.append([scores.task.label, scores.unit if any(scores.shown.values()) else "", *ours, *theirs])
    if analysis.overall.tasks:
        rows.append(_mean_row(analysis, published))
    if len(head) > WIDEST and len(head) > len(rows) + 1:
        head, *rows = [list(column) for column in zip(head, *rows, strict=True)]
    note = "Last checkpoint: mean ± standard error over seeds, in brackets the number of seeds."
    if published:
        note += " Published scores are of other authors, with their protocols and environments."
    return Table("Scores", head, rows, note)


def overall_table(analysis: Analysis) -> Table:
    """Tabulate interquartile mean and mean over all tasks on one scale, a row for each method."""
    total = analysis.overall
    rows = [
        (
            analysis.labels[method],
            _interval(found.middle),
            _interval(found.mean),
            str(len(total.tasks)),
            str(total.runs),
        )
        for method, found in analysis.totals.items()
    ]
    head = ("method", "interquartile mean [95 %]", "mean [95 %]", "tasks", "runs")
    note = "On the scale where 0 and 100 are each task's reference scores or the returns given by the grid."
    if rows and not next(iter(analysis.totals.values())).middle.has_interval:
        note += f" No intervals: they need at least {FEWEST} seeds in every task."
    if total.left_out:
        note += f" Left out: {'; '.join(total.left_out)}."
    return Table("Over all tasks", head, rows, note)


def detail_table(analysis: Analysis) -> Table:
    """Tabulate each task and method, with the best checkpoint in a separate column."""
    rows = []
    for scores in analysis.tasks:
        for method, label in analysis.labels.items():
            cell = analysis.cells.get((scores.task.name, method))
            if cell is not None:
                best = NONE if cell.best is None else _plus_minus(scores, cell.best, cell.best_error)
                middle = _interval(cell.middle, scores.digits)
                row = (
                    scores.task.label,
                    label,
                    str(cell.count),
                    _plus_minus(scores, cell.mean, cell.error),
                    middle,
                    best,
                )
                rows.append(row)
    head = (
        "task",
        "method",
        "seeds",
        "mean ± standard error",
        "interquartile mean [95 %]",
        "best checkpoint (optimistic)",
    )
    return Table("Each task", head, rows, _single_seed(analysis))


def improvement_table(analysis: Analysis) -> Table:
    """Tabulate the probability of improvement of each pair of methods."""
    labels = analysis.labels
    rows = [
        (f"{labels[f.method]} above {labels[f.other]}", _interval(f.probability, 2), str(f.tasks))
        for f in analysis.improvements
    ]
    note = (
        "Probability that a run of the first method scores above one of the second, mean over the tasks in which "
        "both have runs; a tie counts half. An interval that includes 0.5 decides nothing."
    )
    return Table(
        "Probability of improvement", ("pair", "probability [95 %]", "tasks"), rows, note + _few_pairs(analysis)
    )


def test_table(analysis: Analysis) -> Table:
    """Tabulate paired tests: a row for each pair, a column for each task that any pair has enough seeds for, and one
    for all.
    """
    names = {scores.task.name: scores.task.label for scores in analysis.tasks} | {OVERALL: "all tasks"}
    decided = {test.where for test in analysis.tests if test.result.can_decide}
    columns = [name for name in names if name in decided]
    by_pair: dict[tuple[str, str], dict[str, Test]] = {}
    for test in analysis.tests:
        by_pair.setdefault((test.method, test.other), {})[test.where] = test
    labels = analysis.labels
    rows = [
        (f"{labels[a]} - {labels[b]}", *(_test(analysis, tests.get(name)) for name in columns))
        for (a, b), tests in by_pair.items()
        if columns
    ]
    count = sum(test.adjusted is not None for test in analysis.tests)
    note = (
        "Mean difference, and the unadjusted p-value of a two-sided sign-flip test. Pairs are the runs of one task "
        "and seed, which share the evaluation's episodes. The test over all tasks is whether the methods differ "
        f"in any of them. A star marks p < {SIGNIFICANCE:g} after Holm's adjustment for the number of tests here, "
        f"{count}, for which a test needs {pairs_needed(count)} pairs."
    )
    return Table("Paired tests", ("pair", *(names[name] for name in columns)), rows, note)


def warnings(analysis: Analysis) -> list[str]:
    """List where too few seeds rule out a paired test: one sentence for each number of pairs."""
    names = {scores.task.name: scores.task.label for scores in analysis.tasks} | {OVERALL: "all tasks together"}
    decided = {test.where for test in analysis.tests if test.result.can_decide}
    too_few: dict[int, dict[str, None]] = {}
    for test in analysis.tests:
        if not test.result.can_decide:
            labels = f" ({analysis.labels[test.method]} - {analysis.labels[test.other]})"
            where = names[test.where] + (labels if test.where in decided else "")
            too_few.setdefault(test.result.pairs, {})[where] = None
    return [_too_few(list(where), count) for count, where in sorted(too_few.items())]


def _too_few(where: Sequence[str], pairs: int) -> str:
    """State that this number of paired runs decides nothing there."""
    needed = pairs_needed()
    places = where[0] if len(where) == 1 else f"{', '.join(where[:-1])} and {where[-1]}"
    if pairs == 0:
        return f"Which method is better in {places} is undecided: the runs have the same scores."
    runs = "One run of each method is" if pairs == 1 else f"{pairs} runs of each method are"
    return (
        f"{runs} too few to say which method is better in {places}: even where one method's runs all score higher, "
        f"chance alone does that {min(1.0, 2 / 2**pairs):.0%} of the time; with {needed} runs it is below "
        f"{SIGNIFICANCE:.0%}."
    )


def missing_table(analysis: Analysis) -> Table:
    """Tabulate the planned runs that have no score, by task and reason."""
    by_method: dict[tuple[str, str, str, str], list[int]] = {}
    for run in analysis.comparison.missing:
        key = (run.planned.task, run.state, run.reason, run.planned.method)
        by_method.setdefault(key, []).append(run.planned.seed)
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for (task, state, reason, method), seeds in by_method.items():
        grouped.setdefault((task, state, reason, ", ".join(map(str, seeds))), []).append(analysis.labels[method])
    tasks = {task.name: task.label for task in analysis.comparison.plan.tasks}
    rows = []
    for (task, state, reason, shown), methods in grouped.items():
        who = "all" if len(methods) == len(analysis.labels) else ", ".join(methods)
        rows.append((tasks[task], who, shown, state, reason))
    return Table("Runs without a score", ("task", "methods", "seeds", "state", "reason"), rows)


def _published(analysis: Analysis) -> list[str]:
    return list(dict.fromkeys(name for scores in analysis.tasks for name in scores.task.published))


def _mean_row(analysis: Analysis, published: Sequence[str]) -> list[str]:
    """Average over the tasks on one scale; published scores where they cover all of these tasks on that scale."""
    tasks = analysis.overall.tasks
    ours = [f"{analysis.totals[m].mean.value:.1f}" if m in analysis.totals else NONE for m in analysis.labels]
    theirs = []
    for name in published:
        known = [s.task.published[name] for s in tasks if name in s.task.published and s.unit != "return"]
        theirs.append(f"{sum(known) / len(known):.1f}" if len(known) == len(tasks) else NONE)
    return [f"mean over {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}", "0 to 100", *ours, *theirs]


def _mean(scores: TaskScores, cell: TableCell | None) -> str:
    return NONE if cell is None else f"{_plus_minus(scores, cell.mean, cell.error)} ({cell.count})"


def _plus_minus(scores: TaskScores, value: float, error: float | None) -> str:
    return scores.text(value) if error is None else f"{scores.text(value)} ± {scores.text(error)}"


def _interval(estimate: Estimate, digits: int = 1) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _test(analysis: Analysis, test: Test | None) -> str:
    if test is None or test.adjusted is None:
        return NONE
    digits = {scores.task.name: scores.digits for scores in analysis.tasks}.get(test.where, 1)
    star = "*" if test.adjusted < SIGNIFICANCE else ""
    return f"{test.result.difference:+.{digits}f} (p = {test.result.p:.2g}{star}, {test.result.pairs} pairs)"


def _single_seed(analysis: Analysis) -> str:
    fewest = min((cell.count for cell in analysis.cells.values()), default=FEWEST)
    notes = ["One seed has no standard error."] if fewest == 1 else []
    return " ".join([*notes, *([f"Fewer than {FEWEST} seeds have no interval."] if fewest < FEWEST else [])])


def _few_pairs(analysis: Analysis) -> str:
    if len(analysis.labels) <= ALL_PAIRS:
        return ""
    return f" Of {len(analysis.labels)} methods each is compared with the first one only."
