"""Results of a comparison's runs, read from their folders."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minrl.compare.grid.plan import ComparisonPlan, PlannedRun, failure_of, read_plan, read_state
from minrl.runs import checkpoint
from minrl.runs.folder import BEST_CHECKPOINT, SUMMARY
from minrl.runs.log import STEP, TIMESTEPS, check_log, read_log
from minrl.runs.side_files import read_summary, read_targets
from minrl.system.messages import one_line

State = Literal["done", "failed", "skipped", "not run"]
Row = dict[str, float]
_LARGEST = 1e100  # squares and sums of scores stay finite


@dataclass(frozen=True)
class Score:
    """Result of one evaluation."""

    step: int
    environment: str
    target_return: float | None
    mean_return: float
    normalized: float | None  # 0 a random agent, 100 an expert; None without reference scores
    standard_error: float | None  # of the mean return, over episodes; None for a single one
    episodes: int
    first_seed: int
    versions: tuple[tuple[str, str], ...]

    @classmethod
    def from_evaluation(cls, evaluation: dict[str, Any], step: int) -> "Score":
        """Build from an evaluation's plain values; raise ValueError if the return is not finite."""
        score = cls(
            step=step,
            environment=str(evaluation["environment"]),
            target_return=number_or_none(evaluation["target_return"], "target_return"),
            mean_return=float(evaluation["mean_return"]),
            normalized=number_or_none(evaluation["normalized_score"], "normalized_score"),
            standard_error=number_or_none(evaluation["standard_error"], "standard_error"),
            episodes=int(evaluation["episodes"]),
            first_seed=int(evaluation["seeds"][0]),
            versions=tuple(sorted((str(name), str(text)) for name, text in evaluation["versions"].items())),
        )
        if not math.isfinite(score.mean_return) or abs(score.mean_return) > _LARGEST:
            raise ValueError("the return of its evaluation is not finite")
        return score


def number_or_none(value: Any, name: str) -> float | None:
    """Return a finite number of a summary, or None; raise ValueError with its name for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise ValueError(f"{name} is {one_line(repr(value), 80)}, not a number")
    return float(value)


@dataclass(frozen=True)
class Cost:
    """Resources that a run took; None if its summary lacks them."""

    seconds: float | None  # of training alone
    cpu_seconds: float | None
    parameters: int | None
    seconds_per_action: float | None
    peak_memory: int | None  # bytes
    device: str
    threads: int | None


@dataclass(frozen=True)
class RunRecord:
    """Planned run and its result."""

    planned: PlannedRun
    folder: Path
    state: State
    reason: str = ""  # of a missing score
    last: Score | None = None
    best: Score | None = None
    cost: Cost | None = None

    @property
    def counter(self) -> str:
        """The column of the log that counts steps."""
        return STEP if self.planned.family == "offline" else TIMESTEPS

    @property
    def data_of_step(self) -> int:
        """Steps of trajectories that one counted step sees: a batch offline, 1 in an environment."""
        if self.planned.family != "offline":
            return 1
        train, options = self.planned.settings["train"], self.planned.settings[self.planned.agent]
        return int(train["batch_size"]) * int(options.get("context") or train["length"])

    def log(self) -> list[Row]:
        """Read the rows of its log."""
        return read_log(self.folder, self.counter)

    def targets(self) -> list[tuple[float, float]]:
        """Return (target return, mean achieved return) of each target tried on the last weights; empty without any."""
        try:
            rows = read_targets(self.folder)
            last = max((int(row["step"]) for row in rows), default=0)
            pairs = [(float(r["target_return"]), float(r["mean_return"])) for r in rows if int(r["step"]) == last]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return sorted(pairs)


@dataclass(frozen=True)
class Comparison:
    """Comparison's plan and runs, in the plan's order."""

    folder: Path
    plan: ComparisonPlan
    runs: tuple[RunRecord, ...]

    def runs_of(self, task: str, method: str | None = None) -> list[RunRecord]:
        """Return the runs of a task, or of one method in it."""
        return [r for r in self.runs if r.planned.task == task and method in (None, r.planned.method)]

    @property
    def missing(self) -> list[RunRecord]:
        """The runs that have no score."""
        return [run for run in self.runs if run.last is None]


def read_comparison(folder: Path) -> Comparison:
    """Read a comparison's folder, whether its runs are finished or not; raise ValueError without a grid."""
    plan, state = read_plan(folder), read_state(folder)
    runs = []
    for planned in plan.runs:
        noted = state.get(planned.key)
        run = _read_run(planned, folder / planned.folder)
        if run.state == "not run" and noted is not None:
            run = RunRecord(planned, run.folder, "failed" if noted.state == "failed" else "skipped", noted.reason)
        runs.append(run)
    return Comparison(folder, plan, tuple(runs))


def _read_run(planned: PlannedRun, folder: Path) -> RunRecord:
    try:
        summary = read_summary(folder)
        cost = None if summary is None else _cost(summary)
    except (OSError, ValueError, TypeError) as error:
        return RunRecord(planned, folder, "failed", one_line(error))
    if summary is None:
        return RunRecord(planned, folder, "not run", "not run yet")
    if (failure := failure_of(summary)) is not None:
        return RunRecord(planned, folder, "failed", failure, cost=cost)
    if summary.get("evaluation") is None:
        return RunRecord(
            planned, folder, "done", "done, but not evaluated: no environment or evaluate_every = 0", cost=cost
        )
    try:
        last = Score.from_evaluation(summary["evaluation"], int(summary["step"]))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return RunRecord(planned, folder, "failed", f"{SUMMARY} holds no score: {one_line(error)}", cost=cost)
    record = RunRecord(planned, folder, "done", "", last, _best(folder), cost)
    check_log(folder, record.counter, summary.get("log"))
    return record


def _best(folder: Path) -> Score | None:
    """Read the evaluation that selected the best checkpoint."""
    try:
        saved = checkpoint.read(folder / BEST_CHECKPOINT)
        return Score.from_evaluation(saved.note["evaluation"], saved.step)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError):
        return None


def _cost(summary: dict[str, Any]) -> Cost:
    """Read what a run took; raise ValueError for a value that is no number."""

    def number(name: str) -> float | None:
        return number_or_none(summary.get(name), name)

    seconds, each, step = number("training_seconds"), number("seconds_per_training_step"), number("step")
    if seconds is None and each is not None and step is not None:
        seconds = each * step
    parameters, memory, threads = (number(name) for name in ("parameters", "peak_memory_bytes", "threads"))
    return Cost(
        seconds=seconds,
        cpu_seconds=number("training_cpu_seconds"),
        parameters=None if parameters is None else int(parameters),
        seconds_per_action=number("seconds_per_action"),
        peak_memory=None if memory is None else int(memory),
        device=str(summary.get("device", "unknown")),
        threads=None if threads is None else int(threads),
    )
