"""The outcome of an online run, and the report on it: scores and speed, as a table and a learning curve."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minrl.agent import OnlineAgent
from minrl.evaluate import Evaluation
from minrl.online.settings import Config
from minrl.runs.learning_curve import CurvePanel
from minrl.runs.log import TIMESTEPS
from minrl.runs.summary import finish


@dataclass(frozen=True)
class OnlineResult:
    """Outcome of a run."""

    agent: OnlineAgent
    config: Config
    vectorization: str
    step: int  # environment steps
    evaluation: Evaluation | None  # of the last weights; None if stopped or without evaluation
    signal: int | None  # that stopped it
    seconds: float  # of rollouts and updates alone, over the whole run
    cpu_seconds: float
    failure: str | None = None  # error of the evaluation of the last weights
    is_first: ClassVar[bool] = True  # one process trains

    @property
    def exit_code(self) -> int:
        """Exit code: 0, 1 if the last evaluation failed, 128 + n after signal n."""
        if self.signal is not None:
            return 128 + self.signal
        return 0 if self.failure is None else 1


def write_report(result: OnlineResult, out: Path) -> str:
    """Write the report of an online run and return it as a table."""
    config = result.config
    kind = "natively vectorised" if result.vectorization == "native" else result.vectorization
    rate = result.step / result.seconds if result.seconds else 0.0
    return finish(
        result.agent,
        result.evaluation,
        out,
        failure=result.failure,
        rows=[
            ("trained in", f"{config.env}, {config.n_envs} at once ({kind})"),
            ("checkpoint", f"the last one, after {result.step} steps"),
        ],
        speed=[("training", f"{result.seconds:.1f} s, {rate:.0f} steps per second")],
        numbers={
            "step": result.step,
            "training_seconds": result.seconds,
            "training_cpu_seconds": result.cpu_seconds,
            "steps_per_second": rate,
        },
        panels=[CurvePanel(TIMESTEPS, "environment steps", "return", ("rollout/ep_rew_mean", "eval/mean_reward"))],
    )
