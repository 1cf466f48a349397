"""Protocol of a comparison: runs, environments, versions, settings, and how scores are computed."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

from minrl.compare.grid.plan import ComparisonPlan, PlannedRun
from minrl.compare.report.table import Table
from minrl.compare.stats import statistics
from minrl.compare.stats.analysis import Analysis
from minrl.compare.stats.results import RunRecord, Score

# Below this number of seeds the report warns that intervals are too narrow.
FEW_SEEDS = 10


def scored(analysis: Analysis, task: str | None = None) -> list[Score]:
    """Return the last evaluations of all runs, or of those of a task, that have one."""
    runs = analysis.comparison.runs if task is None else analysis.comparison.runs_of(task)
    return [run.last for run in runs if run.last is not None]


def counts(analysis: Analysis) -> str:
    """Describe the number of planned runs that have a score."""
    plan, runs = analysis.comparison.plan, analysis.comparison.runs
    finished = len(runs) - len(analysis.comparison.missing)
    shape = f"{_number(plan.methods, 'method')}, {_number(plan.tasks, 'task')}, {_number(plan.seeds, 'seed')}"
    return f"{finished} of {len(runs)} runs have a score ({shape})"


def versions(scores: Sequence[Score]) -> str:
    """List the packages that scores depend on; all versions of a package where runs differ."""
    found: dict[str, set[str]] = {}
    for score in scores:
        for name, number in score.versions:
            found.setdefault(name, set()).add(number)
    return ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in sorted(found.items()))


def footer(runs: Sequence[RunRecord]) -> str:
    """Describe a figure's runs, environments, versions and protocol in one line."""
    scores = [run.last for run in runs if run.last is not None]
    seeds = sorted({run.planned.seed for run in runs if run.last is not None})
    numbers = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else _either(seeds)
    parts = [
        f"{_number(scores, 'run')} (runs/TASK/METHOD/seed_N, seeds {numbers})",
        ", ".join(dict.fromkeys(score.environment for score in scores)),
        f"last checkpoint, {_asked(runs)}, {_either(sorted({s.episodes for s in scores}))} episodes a run",
        versions(scores),
    ]
    return " · ".join(parts)


def lines(analysis: Analysis) -> list[str]:
    """List how scores and intervals were computed, one item each."""
    plan = analysis.comparison.plan
    most = max((cell.count for cell in analysis.cells.values()), default=0)
    found = [
        f"{counts(analysis)}; a cell of a table shows the number of its seeds in brackets.",
        "A score is the mean return of the last checkpoint's evaluation, at one target return fixed beforehand "
        "(in the table of tasks), where the agent takes one. Runs of one seed are evaluated in the same episodes, "
        "whatever their method.",
        *([] if plan.budget is None else [f"Budget: {plan.budget}; each learning-rate schedule ends with it."]),
        *_other_targets(analysis),
        "Best checkpoint: the best of the evaluations during training, selected by the return that is shown, which "
        "is therefore biased upwards. It enters no other figure.",
        "± is the standard error over seeds. The interquartile mean omits the lowest and the highest quarter of "
        "the runs; of fewer than four runs it is the mean.",
        f"[ ] are 95 % percentile intervals of a stratified bootstrap ({statistics.RESAMPLES:,} resamples of seeds "
        f"within each task, fixed random numbers; scipy {version('scipy')}). They need {statistics.FEWEST} seeds.",
    ]
    if statistics.FEWEST <= most < FEW_SEEDS:
        held = statistics.COVERAGE
        found.append(
            "With few seeds these intervals are too narrow: of normally distributed scores they hold the true "
            f"interquartile mean of one task {held[1, 3]} % of the time with three seeds and {held[1, 5]} % with five, "
            f"that of six tasks together {held[6, 3]} % and {held[6, 5]} %."
        )
    if len({score.versions for score in scored(analysis)}) > 1:
        found.append("Warning: the runs were evaluated with different versions of the packages.")
    found.append(f"Versions: {versions(scored(analysis)) or 'none known, as no run has a score'}.")
    found += [f"{name} (published): {source}." for name, source in plan.sources.items()]
    return found


def _asked(runs: Sequence[RunRecord]) -> str:
    """Describe the target returns of a figure's agents in short."""
    planned = [run.planned for run in runs]
    return "target return as stated" if any(_chooses(p) or _predicts(p) for p in planned) else "fixed target return"


def _other_targets(analysis: Analysis) -> list[str]:
    """Describe the methods whose target return is not fixed beforehand."""
    plan, found = analysis.comparison.plan, []
    if chosen := _labels(analysis, {run.method for run in plan.runs if _chooses(run)}):
        found.append(
            f"{chosen}: the target return is selected after the last step from a few between mean and best of the "
            "data, each tried for as many episodes as an evaluation has, with seeds that no evaluation uses "
            "(target_choice.json of each run): additional episodes in the environment that other methods do not have."
        )
    if predicted := _labels(analysis, {run.method for run in plan.runs if _predicts(run)}):
        found.append(f"{predicted}: no fixed target return, but at every step the return that the agent predicts.")
    return found


def _labels(analysis: Analysis, methods: set[str]) -> str:
    names = [analysis.labels[method.name] for method in analysis.comparison.plan.methods if method.name in methods]
    return ", ".join(names)


def _chooses(run: PlannedRun) -> bool:
    return bool(run.settings.get("train", {}).get("choose_target"))


def _predicts(run: PlannedRun) -> bool:
    return run.settings.get("decision", {}).get("return_expectile") is not None


def task_table(analysis: Analysis) -> Table:
    """Tabulate the source of each task's scores."""
    rows = []
    for scores in analysis.tasks:
        found = scored(analysis, scores.task.name)
        runs = analysis.comparison.runs_of(scores.task.name)
        rows.append(
            (
                scores.task.label,
                scores.task.source,
                _either(dict.fromkeys(score.environment for score in found)),
                _steps(runs),
                _either(sorted({score.episodes for score in found})),
                _either(sorted({f"{s.target_return:.1f}" for s in found if s.target_return is not None})),
                _episode_seeds(runs),
                scores.unit if found else "",
                scores.scale or "none",
            )
        )
    head = ("task", "data set or environment", "evaluated in", "steps", "episodes", "target return",
            "episode seeds", "score shown", "scale over tasks")  # fmt: skip
    return Table("Tasks", head, rows)


def method_table(analysis: Analysis) -> Table:
    """Tabulate the settings in which the methods of a task differ."""
    plan = analysis.comparison.plan
    grouped: dict[tuple[str, ...], list[str]] = {}
    for task in plan.tasks:
        grouped.setdefault(_differences(plan, task.name), []).append(task.label)
    rows = []
    for texts, tasks in grouped.items():
        where = "all tasks" if len(grouped) == 1 else ", ".join(tasks)
        rows += [(analysis.labels[m.name], where, text) for m, text in zip(plan.methods, texts, strict=True)]
    note = "All other settings of a task's runs are equal; grid.toml and each run's config.toml list them all."
    return Table("Methods", ("method", "tasks", "settings in which the methods differ"), rows, note)


def _differences(plan: ComparisonPlan, task: str) -> tuple[str, ...]:
    """Format for each method its settings in a task, without those that all methods share."""
    first: dict[str, PlannedRun] = {}
    for run in plan.runs:
        if run.task == task:
            first.setdefault(run.method, run)
    flat = [_flat(first[method.name]) for method in plan.methods]
    names = [
        name for name in dict.fromkeys(n for values in flat for n in values) if len({v.get(name) for v in flat}) > 1
    ]
    return tuple(", ".join(f"{n} = {values[n]}" for n in names if n in values) or "none" for values in flat)


def _flat(run: PlannedRun) -> Mapping[str, str]:
    tables = {"": {"agent": run.agent}, **run.settings}
    return {name: f"{value}".lower() if isinstance(value, bool) else f"{value}"
            for table in tables.values() for name, value in table.items() if name != "seed"}  # fmt: skip


def _steps(runs: Sequence[RunRecord]) -> str:
    kind = "gradient" if runs and runs[0].planned.family == "offline" else "environment"
    done = sorted({run.last.step for run in runs if run.last is not None}) or sorted({r.planned.steps for r in runs})
    return f"{_either(f'{step:,}' for step in done)} {kind}"


def _episode_seeds(runs: Sequence[RunRecord]) -> str:
    """Format the first and last episode seed of all runs' evaluations."""
    found = [run.last for run in runs if run.last is not None]
    if not found:
        return ""
    return f"{min(s.first_seed for s in found)} to {max(s.first_seed + s.episodes for s in found) - 1}"


def _either(values: Iterable[object]) -> str:
    return " or ".join(map(str, values))


def _number(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
