"""Training of an online agent into a run's folder, and resuming it."""

from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from minrl.agent import OnlineAgent
from minrl.data.environment import EnvironmentInfo, check_trusted
from minrl.data.task import Task
from minrl.data.trust import check_keywords
from minrl.online.environments import open_environments, probe, seed_environments
from minrl.online.report import OnlineResult
from minrl.online.run import OnlineRun
from minrl.online.settings import Config, config_class
from minrl.runs import checkpoint
from minrl.runs.folder import CONFIG, check_new, run_folder, run_lock
from minrl.runs.saved_state import unfit
from minrl.runs.settings import extended
from minrl.runs.side_files import check_config
from minrl.runs.threads import describe_threads, threads_begun, use_threads
from minrl.system.config import build, write_toml
from minrl.system.device import device_named
from minrl.system.malloc import tune_cpu
from minrl.system.messages import with_class


def train(kind: type[OnlineAgent], options: Any, settings: Config, out: Path) -> OnlineResult:
    """Train a new policy into the folder `out`.

    Args:
        kind: of agent.
        options: of the policy, a `kind.options_class`.
        settings: of the run.
        out: the run's folder.

    Raises:
        ValueError: if `out` already holds a run, the environment is unavailable, or a setting is impossible.
        OSError: if `out` cannot be written.
        FloatingPointError: if the loss is no longer finite; the last checkpoint is kept.
    """
    check_new(out)
    with run_lock(out):
        check_new(out)
        with closing(_set_up(kind, kind.new_config(options), settings, out)) as run:
            _write_config(run)
            return run.train()


def resume(out: Path, environment: str | None = None, steps: int | None = None) -> OnlineResult:
    """Continue the run in `out` from its last checkpoint; see `minrl.online.run` for what it restores.

    Args:
        out: the run's folder.
        environment: the run's environment id, needed if no installed package registers it: modules that only a file
            names are not imported.
        steps: new last step; a learning rate with linear decay continues as in a run of that many steps.

    Raises:
        ValueError: if there is no checkpoint to go on from, it lies beyond `steps`, or it does not fit the
            environment.
        FloatingPointError: as `train`.
    """
    with run_lock(run_folder(out)):
        return _resume(out, environment, steps)


def _resume(out: Path, environment: str | None, steps: int | None) -> OnlineResult:
    saved, folder = checkpoint.read(out), run_folder(out)
    if "config" not in saved.training:
        raise ValueError(f"{out} holds an agent that only acts; there is nothing to resume")
    where = f"checkpoint {out}"
    kind = checkpoint.agent_class(saved.agent)
    if not issubclass(kind, OnlineAgent):
        raise ValueError(f"the {saved.agent} agent of {out} does not learn in an environment")
    planned = build(config_class(kind), saved.training["config"], where)
    config = extended(planned, steps, saved.step, out)
    agent_config = build(kind.config_class, kind.saved_config(saved.config), where)
    try:
        task = Task.from_dict(saved.task)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{where} does not fit its own configuration: {with_class(error)}") from error
    if environment is None:
        check_trusted(EnvironmentInfo(config.env, config.env_kwargs))
    elif environment != config.env:
        raise ValueError(f"{out} was trained in {config.env}, not in {environment}")
    else:
        check_keywords(config.env, config.env_kwargs, "the checkpoint")
    begun = threads_begun(saved.training)
    with closing(_set_up(kind, agent_config, config, folder, task, saved.step, begun)) as run:
        try:
            run.restore(saved)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a file may hold anything
            raise unfit(error, where) from error
        check_config(folder, _written(run.agent, planned))
        if config != planned:
            _write_new_steps(run, planned)
        return run.train()


def _write_config(run: OnlineRun) -> None:
    write_toml(run.out / CONFIG, _written(run.agent, run.config))


def _written(agent: OnlineAgent, config: Config) -> dict[str, Any]:
    """Return the tables of the run's `config.toml`."""
    names = (field.name for field in fields(agent.options_class))
    return {agent.name: agent.options_class(**{n: getattr(agent.config, n) for n in names}), "train": config}


def _write_new_steps(run: OnlineRun, planned: Config) -> None:
    """Record the new number of steps for later resumes, and print what the learning rate does."""
    config = run.config
    run.save()
    _write_config(run)
    old, new = (
        c.learning_rate * (max(0.0, 1 - run.step / c.steps) if c.decay == "linear" else 1.0) for c in (planned, config)
    )
    print(
        f"step {run.step} of {config.steps} instead of {planned.steps}: the learning rate continues at {new:.2g}, "
        f"as in a run of {config.steps} steps from the start; it was {old:.2g}",
        flush=True,
    )


def _set_up(
    kind: type[OnlineAgent],
    agent_config: Any,
    config: Config,
    out: Path,
    known: Task | None = None,
    step: int = 0,
    begun: int | None = None,
) -> OnlineRun:
    """Return the run before its first rollout in this process.

    A resumed one has made `step` steps, with `begun` threads, and must still have the task `known`.
    """
    if config.tune_cpu:
        tune_cpu()
    device = device_named(config.device)
    task, vectorization = probe(config)
    if known is not None:
        known.check_fits(task.observation_space, task.action_space, config.env)
        task = replace(known, environment=task.environment)
    environments = open_environments(config, agent_config, task, vectorization)
    try:
        agent, model = kind.learner(agent_config, config, task, environments, device)
        steps = config.batch_size or config.rollout_steps
        threads = use_threads(config.threads, model.policy, steps, places=task.observation_size, begun=begun)
    except BaseException:
        environments.close()
        raise
    if device.type == "cpu":
        print(f"minrl: {describe_threads(threads, config.threads, begun)}")
    if agent.task.masked:
        print("minrl: actions are masked by action_masks() of the environments")
    seed_environments(environments, config, step)
    return OnlineRun(model, agent.to(device), config, vectorization, out)
