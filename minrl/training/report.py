"""The report on an offline run: data set, losses and scores, as a table and a learning curve."""

import math
import shlex
from pathlib import Path
from typing import Any

import torch

from minrl.data.episode import Episodes
from minrl.runs.learning_curve import CurvePanel
from minrl.runs.log import STEP, read_log
from minrl.runs.summary import finish, program
from minrl.training import relabel_returns, target_search
from minrl.training.offline import RunResult
from minrl.training.validation import LOSS


def write_report(result: RunResult, out: Path) -> str:
    """Write the report of an offline run and return it as a table: data set, losses, scores, speed."""
    agent = result.agent
    assert result.data is not None
    episodes = result.data
    rows = [("data set", f"{episodes.name}: {len(episodes)} episodes, {episodes.num_steps} steps")]
    rows += [
        ("data set, mean return", _scored(episodes, float(episodes.returns.mean()))),
        ("data set, best return", _scored(episodes, float(episodes.returns.max()))),
    ]
    if result.held_out:
        rows.append(("held out", f"{result.held_out} episodes, for validation only"))
    rows += relabel_returns.report_rows(out) + target_search.report_rows(out)
    if unit := result.agent.loss_unit:
        rows.append(("loss", f"in {unit}{', action errors in the unit of the action' if result.held_out else ''}"))
    rows.append(("checkpoint", f"the last one, after {result.step} steps"))
    speed = []
    if result.seconds_per_step is not None:
        speed = [("time per training step", f"{1e3 * result.seconds_per_step:.1f} ms")]
    losses = ("train/loss", LOSS) if result.held_out else ("train/loss",)
    label = "loss" if result.held_out else "training loss"
    panels = [
        CurvePanel(STEP, "gradient steps", f"{label} ({unit})" if unit else label, losses),
        score_panel(out, episodes),
    ]
    numbers: dict[str, Any] = {
        "step": result.step,
        "seconds_per_training_step": result.seconds_per_step,
        "training_seconds": result.seconds,
        "training_cpu_seconds": None if math.isnan(result.cpu_seconds) else result.cpu_seconds,
    }
    device = next(agent.parameters()).device
    if device.type == "cuda":
        numbers["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    if result.evaluation is None and result.failure is None:
        rows.append(("evaluation", _why_not_evaluated(result, out)))
    return finish(
        agent, result.evaluation, out, failure=result.failure, rows=rows, speed=speed, numbers=numbers, panels=panels
    )


def _why_not_evaluated(result: RunResult, out: Path) -> str:
    command = f"{program('minrl')} evaluate {shlex.quote(str(out))}"
    if result.agent.task.environment is not None:
        return f"none, as --evaluate-every is 0; {command} evaluates"
    return (
        f"none, as the data set names no environment; {command} --env ID evaluates in one (MODULE:ID imports MODULE), "
        "and --eval-env ID evaluates during training"
    )


def score_panel(out: Path, episodes: Episodes) -> CurvePanel:
    """Return the panel of a run's scores beside the mean and the best of its data."""
    data = {"data, mean": float(episodes.returns.mean()), "data, best": float(episodes.returns.max())}
    score = "eval/normalized_score"
    if not any(score in row for row in read_log(out)):
        return CurvePanel(STEP, "gradient steps", "return", ("eval/mean_reward",), data)
    normalised = {name: float(episodes.normalized_score(value)) for name, value in data.items()}
    return CurvePanel(STEP, "gradient steps", "normalised score", (score,), normalised)


def _scored(episodes: Episodes, value: float) -> str:
    if episodes.reference_scores is None:
        return f"{value:.1f}"
    return f"{value:.1f} (normalised {episodes.normalized_score(value):.1f})"
