"""The report on an online run: environment, scores and speed, as a table and a learning curve."""

from pathlib import Path

from minrl.online.run import OnlineResult
from minrl.runs.learning_curve import CurvePanel
from minrl.runs.log import TIMESTEPS
from minrl.runs.summary import finish


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
