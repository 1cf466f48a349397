"""Cost of the runs of a comparison: time, parameters, memory. Clocks vary, so no two reports agree on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from minrl.compare.report.table import NONE, Table
from minrl.compare.stats.analysis import Analysis
from minrl.compare.stats.results import Cost, RunRecord

Pick = Callable[[Cost], float | None]
# Each column's name in the CSV, header in the table, value of a run, and format.
COLUMNS: tuple[tuple[str, str, Pick, str], ...] = (
    ("training_seconds", "training, s", lambda cost: cost.seconds, ".4g"),
    ("training_cpu_seconds", "of the CPU, s", lambda cost: cost.cpu_seconds, ".4g"),
    ("parameters", "parameters", lambda cost: cost.parameters, ",.0f"),
    ("milliseconds_per_action", "per action, ms", lambda cost: _times(cost.seconds_per_action, 1e3), ".3f"),
    ("peak_memory_mib", "peak memory, MiB", lambda cost: _times(cost.peak_memory, 2.0**-20), ".0f"),
)


@dataclass(frozen=True)
class MethodCost:
    """Cost of one method in one task: of each column the mean over the runs that have it."""

    task: str
    method: str
    runs: int
    numbers: tuple[float | None, ...]
    device: str


def costs(analysis: Analysis) -> list[MethodCost]:
    """Compute a row for each task and method that has a finished run."""
    found = []
    for task in analysis.comparison.plan.tasks:
        for method in analysis.labels:
            done = [run.cost for run in analysis.comparison.runs_of(task.name, method) if run.cost is not None]
            if done:
                numbers = tuple(_mean(done, pick) for _, _, pick, _ in COLUMNS)
                devices = ", ".join(sorted({_device(cost) for cost in done}))
                found.append(MethodCost(task.name, method, len(done), numbers, devices))
    return found


def cost_table(analysis: Analysis) -> Table:
    """Tabulate the cost of each task and method, without columns that no run has."""
    rows, tasks = costs(analysis), {task.name: task.label for task in analysis.comparison.plan.tasks}
    known = [i for i in range(len(COLUMNS)) if any(row.numbers[i] is not None for row in rows)]
    cells = [
        (
            tasks[row.task],
            analysis.labels[row.method],
            str(row.runs),
            *(NONE if (number := row.numbers[i]) is None else format(number, COLUMNS[i][3]) for i in known),
            row.device,
        )
        for row in rows
    ]
    head = ("task", "method", "runs", *(COLUMNS[i][1] for i in known), "device")
    note = (
        "Means over runs. Training is the time of gradient steps, online with acting, without evaluations. "
        "Actions are for a single environment, on the device of the training. Times of runs that shared a machine "
        "with other work are too long."
    )
    return Table("Cost", head, cells, note)


def training_seconds(runs: Sequence[RunRecord]) -> float | None:
    """Average over the runs that have it; None without any."""
    return _mean([run.cost for run in runs if run.cost is not None], lambda cost: cost.seconds)


def action_milliseconds(runs: Sequence[RunRecord]) -> float | None:
    """Return the median over the runs that have it; None without any."""
    known = [run.cost.seconds_per_action for run in runs if run.cost is not None and run.cost.seconds_per_action]
    return 1e3 * median(known) if known else None


def _mean(found: Sequence[Cost], pick: Pick) -> float | None:
    known = [number for cost in found if (number := pick(cost)) is not None]
    return fmean(known) if known else None


def _times(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor


def _device(cost: Cost) -> str:
    if cost.device != "CPU" or cost.threads is None:
        return cost.device
    return f"CPU, {cost.threads} {'thread' if cost.threads == 1 else 'threads'}"
