"""Offline training of an agent into a run's folder, and resuming it."""

import logging
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minrl.agent import Agent
from minrl.data.environment import make_environment, trusted
from minrl.data.episode import Episodes
from minrl.data.space_match import with_columns_of
from minrl.data.task import Task
from minrl.runs import checkpoint
from minrl.runs.folder import CONFIG, check_new, run_folder, run_lock
from minrl.runs.saved_state import unfit
from minrl.runs.settings import extended
from minrl.runs.side_files import check_config
from minrl.runs.threads import describe_threads, threads_begun, use_threads
from minrl.runs.video import check_renders
from minrl.system.config import build, write_toml
from minrl.system.device import device_named
from minrl.system.distributed import Group
from minrl.system.malloc import tune_cpu
from minrl.system.mujoco import quiet_mujoco
from minrl.training.config import TrainConfig
from minrl.training.data_set import HOW_TO_EVALUATE, check_environment_of_file, training_data
from minrl.training.loop import TrainingRun
from minrl.training.optimizer import Schedule
from minrl.training.relabel_returns import relabel, relabelled_task
from minrl.training.result import RunResult
from minrl.training.validation import split_episodes

_log = logging.getLogger("minrl.training.offline")

__all__ = ["RunResult", "TrainConfig", "new_agent", "resume", "train"]


def train(kind: type[Agent], agent_config: Any, config: TrainConfig, out: Path) -> RunResult:
    """Train a new agent into the folder `out`.

    Raises:
        ValueError: if `out` already holds a run, the data set is unavailable, a setting is impossible, or the
            environment of the evaluations cannot be made.
        OSError: if `out` cannot be written.
        FloatingPointError: if the loss is no longer finite; the last checkpoint is kept.
    """
    check_new(out)
    config = replace(config, data=_absolute(config.data))
    with run_lock(out):
        return _train(kind, agent_config, config, out)


def _train(kind: type[Agent], agent_config: Any, config: TrainConfig, out: Path) -> RunResult:
    device, group = _set_up(config)
    try:
        check_new(out)
        whole = training_data(config)
        episodes, held_out = split_episodes(whole, config.validation, config.seed)
        if config.relabel_returns:
            # Errors in the settings show before the value is trained.
            new_agent(kind, agent_config, Task.of(episodes))
            episodes, held_out = relabel(episodes, held_out, seed=config.seed, out=out, group=group, resumed=False)
        torch.manual_seed(config.seed)
        agent = new_agent(kind, agent_config, _task_of(config, episodes)).to(device)
        agent.fit_normalization(episodes)
        for line in agent.cautions() if group.is_first else ():
            print(f"minrl: {line}", file=sys.stderr)
        if config.evaluate_every:
            _check_environment(agent.task, config.video)
        if group.is_first:
            write_toml(out / CONFIG, {kind.name: agent_config, "train": config})
        _set_threads(agent, config, group)
        return replace(TrainingRun(agent, episodes, held_out, config, out, group).train(), data=whole)
    finally:
        group.leave()


def resume(out: Path, environment: str | None = None, steps: int | None = None) -> RunResult:
    """Resume the run in `out` from its last checkpoint, with the same numbers as without the interruption.

    Args:
        out: the run's folder.
        environment: id of the run's evaluation environment, needed if no installed package registers it: modules that
            only a file names are not imported.
        steps: new last step. From the checkpoint on, the learning rate is that of a run of `steps` steps: after a
            cosine that has reached zero it rises again.

    Raises:
        ValueError: if there is no checkpoint to go on from, it lies beyond `steps`, or it does not fit the data set.
        FloatingPointError: as `train`.
    """
    with run_lock(run_folder(out)):
        return _resume(out, environment, steps)


def _resume(out: Path, environment: str | None, steps: int | None) -> RunResult:
    saved, folder = checkpoint.read(out), run_folder(out)
    if "config" not in saved.training:
        raise ValueError(f"{out} holds an agent that only acts; there is nothing to resume")
    try:
        planned = build(TrainConfig, saved.training["config"], f"checkpoint {out}")
        config = extended(planned, steps, saved.step, out)
        check_environment_of_file(config, environment, str(out))
        device, group = _set_up(config)
        # The set's keys may have another order than when the run began.
        known = Task.from_dict(saved.task)
        whole = with_columns_of(training_data(config), known.observation_space, known.action_space)
        episodes, held_out = split_episodes(whole, config.validation, config.seed)
        if config.relabel_returns:
            episodes, held_out = relabel(episodes, held_out, seed=config.seed, out=folder, group=group, resumed=True)
        agent = checkpoint.restore(saved, str(out)).to(device)
        if not isinstance(agent, Agent):
            raise ValueError(f"the {agent.name} agent of {out} does not learn from a data set")
        _check_same_data(agent.task, _task_of(config, episodes), out)
        agent.task = replace(agent.task, environment=episodes.environment)
        if config.evaluate_every and episodes.environment is not None:
            trusted(episodes.environment)
        run = TrainingRun(agent, episodes, held_out, config, folder, group)
        run.restore(saved)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a file may hold anything
        raise unfit(error, f"checkpoint {out}") from error
    if group.is_first:
        check_config(folder, {agent.name: agent.config, "train": planned})
    if config != planned:
        _write_new_steps(run, agent, planned, config)
    try:
        _set_threads(agent, config, group, threads_begun(saved.training))
        return replace(run.train(), data=whole)
    finally:
        group.leave()


def _write_new_steps(run: TrainingRun, agent: Agent, planned: TrainConfig, config: TrainConfig) -> None:
    """Record the new number of steps for later resumes, and print what the learning rate does."""
    run.save()
    if not run.group.is_first:
        return
    write_toml(run.out / CONFIG, {agent.name: agent.config, "train": config})
    old, new = (Schedule(c.learning_rate, c.steps, c.warmup, c.decay) for c in (planned, config))
    print(
        f"step {run.step} of {config.steps} instead of {planned.steps}: the learning rate continues at "
        f"{new.at(run.step):.2g}, as in a run of {config.steps} steps from the start; "
        f"it was {old.at(max(0, run.step - 1)):.2g}",
        flush=True,
    )


def new_agent(kind: type[Agent], config: Any, task: Task) -> Agent:
    """Build an untrained agent; raise ValueError for settings that do not fit together."""
    try:
        return kind(config, task)
    except (TypeError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"no {kind.name} agent can be made of these settings: {error}") from error


def _absolute(data: str) -> str:
    """Make a data set's file name absolute, so that the run can be resumed from any folder."""
    kind, _, name = data.partition(":")
    return f"hdf5:{Path(name).expanduser().absolute()}" if kind == "hdf5" and name else data


def _check_environment(task: Task, video: bool) -> None:
    """Create the environment once, so that errors in it show before training."""
    if task.environment is None:
        if video:
            raise ValueError(f"--video: {task.dataset} names no environment, so there is nothing to record")
        _log.warning("%s names no environment, so the run is not evaluated; name it: %s", task.dataset, HOW_TO_EVALUATE)
        return
    quiet_mujoco()
    try:
        with closing(make_environment(task.environment)) as environment:
            task.check_fits(environment.observation_space, environment.action_space, task.environment.id)
            modes = environment.metadata.get("render_modes") or []
    except ValueError as error:
        raise ValueError(f"{error} (to train without evaluation: --evaluate-every 0)") from error
    if video:
        check_renders(task.environment, modes)


def _task_of(config: TrainConfig, episodes: Episodes) -> Task:
    return relabelled_task(episodes) if config.relabel_returns else Task.of(episodes)


def _check_same_data(task: Task, now: Task, out: Path) -> None:
    if any(getattr(task, name) != getattr(now, name) for name in ("best_return", "return_scale", "longest_episode")):
        raise ValueError(f"{now.dataset} is no longer the data set that {out} was trained on")


def _set_threads(agent: Agent, config: TrainConfig, group: Group, begun: int | None = None) -> None:
    """Set the number of threads that suits the agent and its batches, or with which the run was started; print it."""
    steps = config.batch_size * (getattr(agent.config, "context", None) or config.length)
    threads = use_threads(config.threads, agent, steps, begun=begun)
    if group.is_first and next(agent.parameters()).device.type == "cpu":
        print(f"minrl: {describe_threads(threads, config.threads, begun)}")


def _set_up(config: TrainConfig) -> tuple[torch.device, Group]:
    if not config.data:
        raise ValueError("no data set: give --data minari:NAME, d4rl:NAME or hdf5:FILE")
    # Until there is an agent: the network that relabels returns is small.
    use_threads(config.threads)
    if config.tune_cpu:
        tune_cpu()
    device = device_named(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device, Group.join(device)
