"""Results of a comparison's runs, read from their folders."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minrl.compare.grid.plan import ComparisonPlan, PlannedRun, failure_of, read_plan, read_state
from minrl.runs import checkpoint
from minrl.runs.folder import BEST_CHECKPOINT, SUMMARY, read_targets
from minrl.runs.log import STEP, TIMESTEPS, read_log

State = Literal["done", "failed", "skipped", "not run"]
Row = dict[str, float]


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
            target_return=evaluation["target_return"],
            mean_return=float(evaluation["mean_return"]),
            normalized=evaluation["normalized_score"],
            standard_error=evaluation["standard_error"],
            episodes=int(evaluation["episodes"]),
            first_seed=int(evaluation["seeds"][0]),
            versions=tuple(sorted(evaluation["versions"].items())),
        )
        if not math.isfinite(score.mean_return):
            raise ValueError("the return of its evaluation is not finite")
        return score


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
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return RunRecord(planned, folder, "not run", "not run yet")
    except (OSError, ValueError) as error:
        return RunRecord(planned, folder, "failed", f"{SUMMARY} cannot be read: {error}")
    cost = _cost(summary)
    if (failure := failure_of(summary)) is not None:
        return RunRecord(planned, folder, "failed", failure, cost=cost)
    if summary.get("evaluation") is None:
        return RunRecord(
            planned, folder, "done", "done, but not evaluated: no environment or evaluate_every = 0", cost=cost
        )
    try:
        last = Score.from_evaluation(summary["evaluation"], int(summary["step"]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return RunRecord(planned, folder, "failed", f"{SUMMARY} holds no score: {error}", cost=cost)
    return RunRecord(planned, folder, "done", "", last, _best(folder), cost)


def _best(folder: Path) -> Score | None:
    """Read the evaluation that selected the best checkpoint."""
    try:
        saved = checkpoint.read(folder / BEST_CHECKPOINT)
        return Score.from_evaluation(saved.note["evaluation"], saved.step)
    except (KeyError, TypeError, ValueError, IndexError, OSError):
        return None


def _cost(summary: dict[str, Any]) -> Cost:
    seconds = summary.get("training_seconds")
    if seconds is None and summary.get("seconds_per_training_step") is not None:
        seconds = summary["seconds_per_training_step"] * summary["step"]
    return Cost(
        seconds=seconds,
        cpu_seconds=summary.get("training_cpu_seconds"),
        parameters=summary.get("parameters"),
        seconds_per_action=summary.get("seconds_per_action"),
        peak_memory=summary.get("peak_memory_bytes"),
        device=str(summary.get("device", "unknown")),
        threads=summary.get("threads"),
    )
