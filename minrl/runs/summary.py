"""The end of any run: summary.json, the table for the terminal and the learning curve."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import concatenate, create_empty_array

from minrl.agent import Actor, parameter_count
from minrl.evaluate import Evaluation
from minrl.play import Player
from minrl.runs.folder import LEARNING_CURVE, PROGRESS, SUMMARY
from minrl.runs.learning_curve import CurvePanel, write_curve
from minrl.runs.log_files import read_cells, rows_digest
from minrl.runs.side_files import write_json


def finish(
    agent: Actor,
    evaluation: Evaluation | None,
    out: Path,
    *,
    failure: str | None = None,
    rows: Sequence[tuple[str, str]],
    speed: Sequence[tuple[str, str]],
    numbers: Mapping[str, Any],
    panels: Sequence[CurvePanel],
) -> str:
    """Write summary and learning curve (given matplotlib) of a run and return its table for the terminal.

    Args:
        agent: that was trained.
        evaluation: of its last weights.
        out: the run's folder.
        failure: of that evaluation, in place of a result.
        rows: of the table, before the evaluation.
        speed: rows after it.
        numbers: of the training, for the summary.
        panels: of the learning curve.
    """
    shown = [*rows]
    if evaluation is not None:
        shown += _evaluation_rows(evaluation)
    if failure is not None:
        again = f"minrl evaluate {shlex.quote(str(out))}"
        shown.append(("evaluation", f"failed: {failure}; the weights are saved, evaluate them: {again}"))
    shown.append(("parameters", str(parameter_count(agent))))
    if next(agent.parameters()).device.type == "cpu":
        shown.append(("CPU threads", str(torch.get_num_threads())))
    action_seconds = seconds_per_action(agent)
    shown += [*speed, ("time per action", f"{1e3 * action_seconds:.2f} ms")]
    more = {"seconds_per_action": action_seconds, "evaluation_failure": failure}
    logged = rows_digest(read_cells(out / PROGRESS, panels[0].counter)[0])
    _write_summary(agent, evaluation, out, {**numbers, **more, "log": logged})
    if write_curve(out, title_of(agent, evaluation), panels):
        shown.append(("learning curve", str(out / LEARNING_CURVE)))
    folder = shlex.quote(str(out))
    watch = f"{program('minrl')} dashboard {folder} (or {program('tensorboard')} --logdir {folder})"
    return f"{_table(shown)}\n\nwatch the curves: {watch}"


def title_of(agent: Actor, evaluation: Evaluation | None) -> str:
    """Return agent, data set and evaluation environment as a title of at most two lines."""
    task, cell = agent.task, getattr(agent.config, "cell", None)
    learned = task.dataset.removeprefix("env:")
    known = evaluation.environment if evaluation is not None else task.environment and task.environment.id
    where = "" if known is None or known == learned else f"\nevaluated in {known}"
    return f"{agent.name}{'' if cell is None else f' ({cell})'}: {learned}{where}"


def program(name: str) -> str:
    """Return the command of a program: its name where the shell finds it, else its path beside Python."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.exists() else shlex.quote(os.path.relpath(beside))


def _write_summary(agent: Actor, evaluation: Evaluation | None, out: Path, numbers: Mapping[str, Any]) -> None:
    """Write the table's values as JSON into the run's folder."""
    device = next(agent.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    values = {
        **numbers,
        "parameters": parameter_count(agent),
        "device": name,
        "threads": torch.get_num_threads(),
        "evaluation": None if evaluation is None else evaluation.to_dict(),
    }
    write_json(out / SUMMARY, values)


def evaluation_table(results: Sequence[Evaluation]) -> str:
    """Format evaluations as tables, one for each target return."""
    return "\n\n".join(_table(_evaluation_rows(result)) for result in results)


def seconds_per_action(agent: Actor, calls: int = 200) -> float:
    """Measure the median time of one action for one environment, conversions included."""
    space: Any = agent.task.acting_space
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
    if result.environment_kwargs:
        # A maze's map would fill the screen.
        parts = [f"{key}={shorten(str(value), 60)}" for key, value in result.environment_kwargs.items()]
        rows.append(("made with", ", ".join(parts)))
    if result.target_return is not None:
        cap = "" if result.capped_at is None else f", capped at {result.capped_at:.1f}, the best return of the data"
        rows.append(("target return", f"{result.target_return:.1f}{cap}"))
    rows.append(("return", _with_error(result.mean_return, result.standard_error)))
    if values["normalized_score"] is not None:
        score = _with_error(values["normalized_score"], values["normalized_standard_error"])
        rows.append(("normalised score", f"{score} (0 random, 100 expert)"))
    count, first, last = len(result.returns), result.seeds[0], result.seeds[-1]
    seeds = f"seed {first}" if count == 1 else f"seeds {first} to {last}"
    rows.append(("episodes", f"{count}, mean length {values['mean_length']:.1f}, {seeds}"))
    if result.max_episode_steps is not None:
        limit = f"at most {result.max_episode_steps} steps an episode"
        cut = sum(result.truncated)
        rows.append(("step limit", f"{limit}; {cut} of {count} truncated" if cut else limit))
    return rows


def _with_error(mean: float, error: float | None) -> str:
    """Format mean and standard error; a single episode has no error."""
    return f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error:.1f}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
