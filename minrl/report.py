"""How a run ended: a table for the terminal and a learning curve as PNG."""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import concatenate, create_empty_array

from minrl.agent import Agent, parameter_count
from minrl.data import load
from minrl.data.episode import Episodes
from minrl.evaluate import Evaluation
from minrl.files import replacing
from minrl.log import STEP, read_log
from minrl.play import Player
from minrl.train import Result

CURVE, SUMMARY = "learning_curve.png", "summary.json"


def write_report(result: Result, out: Path) -> str:
    """A table of what was learned from what, and how fast; writes the learning curve where matplotlib is there."""
    agent = result.agent
    episodes = load(agent.task.dataset)
    rows = [("data set", f"{episodes.name}: {len(episodes)} episodes, {episodes.num_steps} steps")]
    rows += [
        ("data set, mean return", _scored(episodes, float(episodes.returns.mean()))),
        ("data set, best return", _scored(episodes, float(episodes.returns.max()))),
    ]
    rows.append(("checkpoint", f"the last one, after {result.step} steps"))
    if result.evaluation is not None:
        rows += _evaluation_rows(result.evaluation)
    rows.append(("parameters", str(parameter_count(agent))))
    if result.seconds_per_step is not None:
        rows.append(("time per training step", f"{1e3 * result.seconds_per_step:.1f} ms"))
    action_seconds = seconds_per_action(agent)
    rows.append(("time per action", f"{1e3 * action_seconds:.2f} ms"))
    _write_summary(result, out, action_seconds)
    if _plot(out):
        rows.append(("learning curve", str(out / CURVE)))
    lines = _table(rows)
    return f"{lines}\n\nwatch the curves: {_tensorboard()} --logdir {out}"


def _tensorboard() -> str:
    """How to call TensorBoard from here: by its name where the shell finds it, else by its place beside Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    return "tensorboard" if shutil.which("tensorboard") or not beside.exists() else os.path.relpath(beside)


def _write_summary(result: Result, out: Path, action_seconds: float) -> None:
    """The table's numbers as JSON beside the checkpoint."""
    device = next(result.agent.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    values = {
        "step": result.step,
        "parameters": parameter_count(result.agent),
        "seconds_per_training_step": result.seconds_per_step,
        "seconds_per_action": action_seconds,
        "device": name,
        "threads": torch.get_num_threads(),
        "evaluation": None if result.evaluation is None else result.evaluation.to_dict(),
    }
    with replacing(out / SUMMARY) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def evaluation_table(results: Sequence[Evaluation]) -> str:
    """One table for each target return."""
    return "\n\n".join(_table(_evaluation_rows(result)) for result in results)


def seconds_per_action(agent: Agent, calls: int = 200) -> float:
    """Median time of one action for one environment, conversions included."""
    space: Any = agent.task.observation_space
    player = Player(agent, 1)
    empty: Any = create_empty_array(space, n=1)
    observation = concatenate(space, [space.sample()], empty)
    times = []
    for call in range(calls):
        begin = time.perf_counter()
        player.act(observation, np.zeros(1), np.array([call == 0]))
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def _evaluation_rows(result: Evaluation) -> list[tuple[str, str]]:
    values = result.to_dict()
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    rows = [("environment", f"{result.environment} ({versions})")]
    if result.target_return is not None:
        rows.append(("return asked for", f"{result.target_return:.1f}"))
    rows.append(("return", f"{result.mean_return:.1f} ± {result.standard_error:.1f}"))
    if values["normalized_score"] is not None:
        score = f"{values['normalized_score']:.1f} ± {values['normalized_standard_error']:.1f}"
        rows.append(("normalised score", f"{score} (0 random, 100 expert)"))
    seeds = f"seeds {result.seeds[0]} to {result.seeds[-1]}"
    rows.append(("episodes", f"{len(result.returns)}, mean length {values['mean_length']:.1f}, {seeds}"))
    return rows


def _scored(episodes: Episodes, value: float) -> str:
    if episodes.reference_scores is None:
        return f"{value:.1f}"
    return f"{value:.1f} (normalised {episodes.normalized_score(value):.1f})"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _plot(out: Path) -> bool:
    """Write the learning curve beside the log; False where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    log = read_log(out)
    score = "eval/normalized_score"
    if not any(score in row for row in log):
        score = "eval/mean_reward"
    panels = [("train/loss", "training loss"), (score, score.removeprefix("eval/").replace("_", " "))]
    panels = [panel for panel in panels if any(panel[0] in row for row in log)]
    if not panels:
        return False
    figure = Figure(figsize=(5 * len(panels), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for position, (name, label) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), position)
        points = [(row[STEP], row[name]) for row in log if name in row]
        axes.plot(*zip(*points, strict=True), marker="o" if name == score else "")
        axes.set(xlabel="gradient steps", ylabel=label)
        axes.grid(alpha=0.3)
    with replacing(out / CURVE) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True
