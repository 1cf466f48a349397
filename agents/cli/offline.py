"""Agents that learn from data sets: their flags, and their runs in a comparison."""

import argparse
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from minrl.agent import Agent, Moment
from minrl.compare.grid.family import Family, Speed
from minrl.data.environment import check_trusted, make_environment
from minrl.data.task import Task
from minrl.data.trust import reading_only
from minrl.runs.checkpoint import agent_class
from minrl.runs.log import STEP
from minrl.system.config import add_flags, build, from_flags, read_toml
from minrl.system.mujoco import quiet_mujoco
from minrl.training.config import TrainConfig
from minrl.training.data_set import evaluation_environment, training_data
from minrl.training.offline import new_agent, resume, train
from minrl.training.report import write_report
from minrl.training.result import RunResult

from . import flag_hints
from .config_trust import check_environment_of_config

__all__ = ["USAGE", "add_flags_of", "family", "read_flags", "report", "resume", "train"]

USAGE = "minrl train {} --data NAME --out RUN"
DEFAULT = "decision"  # of a grid
_MEASURED = 0.5  # CPU seconds, about, in which a gradient step is measured
GRID_NAMES = "the grid"  # what names a task's environment, in messages


def add_flags_of(parser: argparse.ArgumentParser, files: argparse._ArgumentGroup, kind: type[Agent]) -> None:
    """Add the fields of the agent's config and of the training as flags."""
    parser.usage = f"{USAGE.format(kind.name)} [--config FILE.toml] [flags]"
    parser.epilog = f"example:\n  minrl train {kind.name} --data minari:minrl/hopper/medium-replay-v0 --out runs/hopper"
    files.add_argument(
        "--config",
        metavar="FILE.toml",
        type=Path,
        help=f"file with tables [{kind.name}] and [train], or a shipped config",
    )
    add_flags(parser, TrainConfig, "training")
    add_flags(parser, kind.config_class, "agent")
    parser.set_defaults(instead=flag_hints.OFFLINE)


def read_flags(kind: type[Agent], arguments: argparse.Namespace) -> tuple[Any, TrainConfig]:
    """Return the agent's config and the settings of its training: flags over the file of --config."""
    tables = (
        read_toml(arguments.config, {kind.name: kind.config_class, "train": TrainConfig}) if arguments.config else {}
    )
    own = tables.get(kind.name, {}) | from_flags(kind.config_class, arguments)
    flags = from_flags(TrainConfig, arguments)
    check_environment_of_config(tables.get("train", {}), flags, "eval_env", arguments.config)
    training = tables.get("train", {}) | flags
    return build(kind.config_class, own, "the settings"), build(TrainConfig, training, "the settings")


def report(result: RunResult, out: Path) -> int:
    """Print the report of a run that was not stopped; return its exit code."""
    if result.is_first and result.signal is None:
        print(write_report(result, out))
    return result.exit_code


def family(kinds: dict[str, type[Agent]]) -> Family:
    """Return the interface of these agents to `minrl compare`."""
    options = {name: kind.config_class for name, kind in kinds.items()}
    return Family(
        source="data",
        keys={
            "data": "data",
            "env": "eval_env",
            "env_kwargs": "env_kwargs",
            "observation_space": "observation_space",
            "action_space": "action_space",
        },
        counter=STEP,
        agents={DEFAULT: options.pop(DEFAULT), **options},
        settings=dict.fromkeys(kinds, TrainConfig),
        # Equal results wherever a run is trained; several runs at once share the processor.
        defaults={"threads": 1},
        allow=check_environment,
        find=find_task,
        look=look_for_task,
        check=check_options,
        data_of_step=data_of_step,
        measure=measure,
        start=start_run,
        resume=resume_run,
    )


def check_environment(settings: TrainConfig) -> None:
    """Raise ValueError if the environment that the grid names is not trusted; that of a data set is checked with it."""
    environment = evaluation_environment(settings)
    if environment is not None:
        check_trusted(environment, GRID_NAMES)


def find_task(settings: TrainConfig) -> Task:
    """Return the task of a data set; raise ValueError if the set or its environment is not available."""
    task = _scored(Task.of(training_data(settings)))
    assert task.environment is not None
    quiet_mujoco()
    with closing(make_environment(task.environment)) as environment:
        task.check_fits(environment.observation_space, environment.action_space, task.environment.id)
    return task


def look_for_task(settings: TrainConfig) -> Task:
    """Return the task of a data set that is on this machine; raise ValueError otherwise. No environment is made."""
    with reading_only():
        return _scored(Task.of(training_data(settings, download=False, named_by=GRID_NAMES)))


def _scored(task: Task) -> Task:
    """Return `task`; raise ValueError if it has no environment."""
    if task.environment is None:
        raise ValueError(
            f"{task.dataset} names no environment, so its agents have no score to compare: "
            f'name one in its table [tasks.NAME], env = "ID"'
        )
    return task


def check_options(agent: str, options: Any, task: Task) -> None:
    """Raise ValueError if no agent can be made of these options."""
    new_agent(_class(agent), options, task)


def data_of_step(options: Any, settings: TrainConfig) -> int:
    """Return the steps of trajectories in a batch: rows of `length`, or windows of the agent's `context`."""
    return settings.batch_size * (getattr(options, "context", None) or settings.length)


def measure(agent: str, options: Any, settings: TrainConfig, task: Task) -> Speed:
    """Measure the CPU seconds of a gradient step and of an action, by a run of a few steps in a temporary folder."""
    few = replace(settings, evaluate_every=0, choose_target=False, relabel_returns=False, video=False, steps=1)
    trained, seconds = None, 1.0
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        for attempt in ("first", "second"):
            # The first run loads compiled kernels.
            trained = train(_class(agent), options, few, Path(folder, attempt))
            seconds = trained.cpu_seconds / trained.step
            few = replace(few, steps=int(min(50, max(2, _MEASURED / max(seconds, 1e-6)))))
    assert trained is not None
    return Speed(step=seconds, acting=_acting_seconds(trained.agent, min(settings.evaluate_episodes, 10)))


@torch.inference_mode()
def _acting_seconds(agent: Agent, rows: int) -> float:
    """Return the median CPU seconds of one action in `rows` environments."""
    dtype = torch.float64 if agent.task.observation_space.dtype == np.float64 else torch.float32
    observation = torch.zeros(rows, agent.task.observation_size, dtype=dtype)
    state, times = agent.initial_state(rows), []
    for step in range(13):
        begin = time.process_time()
        moment = Moment(observation, torch.zeros(rows), torch.full((rows,), step == 0))
        _, state = agent.act(moment, state)
        times.append(time.process_time() - begin)
    return float(np.median(times[3:]))


def start_run(agent: str, options: Any, settings: TrainConfig, out: Path) -> int:
    """Train a new agent; return the run's exit code."""
    return report(train(_class(agent), options, settings, out), out)


def resume_run(settings: TrainConfig, out: Path) -> int:
    """Resume a run; return its exit code."""
    return report(resume(out, settings.eval_env or None), out)


def _class(name: str) -> type[Agent]:
    kind = agent_class(name)
    assert issubclass(kind, Agent)
    return kind
