"""Starting a run of recurrent PPO, and resuming one."""

import shlex
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from minrl.data.environment import EnvironmentInfo
from minrl.data.task import Task
from minrl.data.trust import checked
from minrl.runs import checkpoint
from minrl.runs.folder import CONFIG, LAST_CHECKPOINT
from minrl.runs.threads import describe_threads, use_threads
from minrl.system.config import build, write_toml
from minrl.system.device import device_named
from minrl.system.malloc import tune_cpu

from .ppo import RecurrentPPO
from .ppo_agent import PPOAgent, PPOConfig, PPOOptions
from .ppo_environments import open_environments, probe, seed_environments
from .ppo_run import Result, Run
from .ppo_settings import OnlineConfig
from .ppo_spaces import PolicySpaces


def train(options: PPOOptions, config: OnlineConfig, out: Path) -> Result:
    """Train a new policy into the folder `out`.

    Raises:
        ValueError: if `out` already holds a run, the environment cannot be had, or a setting is impossible.
        OSError: if `out` cannot be written.
        FloatingPointError: if the loss is no longer finite; the last checkpoint is kept.
    """
    if (out / LAST_CHECKPOINT).exists():
        folder = shlex.quote(str(out))
        raise ValueError(f"{out} already holds a run: resume it with --resume {folder}, or choose another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out names a folder")
    if options.pretrained is not None:
        # Found again from any folder.
        options = replace(options, pretrained=str(Path(options.pretrained).expanduser().absolute()))
    run = _prepared(PPOConfig(**vars(options)), config, out)
    with closing(run):
        out.mkdir(parents=True, exist_ok=True)
        write_toml(out / CONFIG, {PPOAgent.name: options, "train": config})
        return run.go()


def resume(out: Path, environment: str | None = None, steps: int | None = None) -> Result:
    """Go on with the run in `out` from its last checkpoint; see `ppo_run` for what is and what is not as it was.

    Args:
        out: the run's folder.
        environment: the run's environment id, for one that no installed package registers: nothing that only a file
            names is imported.
        steps: the last step, where it is not to be the planned one; a learning rate with linear decay goes on as in a
            run planned for so many steps.

    Raises:
        ValueError: if there is no checkpoint to go on from, it lies beyond `steps`, or it does not fit the
            environment.
        FloatingPointError: as `train`.
    """
    saved = checkpoint.read(out)
    if "config" not in saved.training:
        raise ValueError(f"{out} holds an agent that only acts; there is nothing to resume")
    folder = out if out.is_dir() else out.parent
    where = f"checkpoint {out}"
    planned = build(OnlineConfig, saved.training["config"], where)
    if steps is not None and steps < saved.step:
        raise ValueError(
            f"{out} has made {saved.step} steps already: --steps N is the total number of steps, got {steps}"
        )
    config = planned if steps is None else replace(planned, steps=steps)
    agent_config = build(PPOConfig, saved.config, where)
    try:
        task = Task.from_dict(saved.task)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{where} does not fit its own configuration: {type(error).__name__}: {error}") from error
    if environment is None:
        checked(EnvironmentInfo(config.env, config.env_kwargs))
    elif environment != config.env:
        raise ValueError(f"{out} was trained in {config.env}, not in {environment}")
    with closing(_prepared(agent_config, config, folder, task, saved.step)) as run:
        try:
            run.restore(saved)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{where} cannot be resumed: {type(error).__name__}: {reason}") from error
        if config != planned:
            _replan(run, planned, config)
        return run.go()


def _replan(run: Run, planned: OnlineConfig, config: OnlineConfig) -> None:
    """Write the new number of steps where a later resumption reads it, and say what the learning rate does."""
    run.save()
    options = {field.name: getattr(run.agent.config, field.name) for field in fields(PPOOptions)}
    write_toml(run.out / CONFIG, {PPOAgent.name: PPOOptions(**options), "train": config})
    old, new = (
        c.learning_rate * (max(0.0, 1 - run.step / c.steps) if c.decay == "linear" else 1.0) for c in (planned, config)
    )
    print(
        f"step {run.step} of {config.steps} instead of {planned.steps}: the learning rate goes on at {new:.2g}, "
        f"as in a run of {config.steps} steps from the start; it was {old:.2g}",
        flush=True,
    )


def _prepared(
    agent_config: PPOConfig, config: OnlineConfig, out: Path, known: Task | None = None, step: int = 0
) -> Run:
    """The run before its first rollout in this process; `known` is the task that it must still be."""
    if config.tune_cpu:
        tune_cpu()
    device = device_named(config.device)
    task, vectorization = probe(config)
    if known is not None:
        known.check_fits(task.observation_space, task.action_space, config.env)
        task = replace(known, environment=task.environment, from_file=False)
    environments = open_environments(config, agent_config, task, vectorization)
    try:
        model = _model(agent_config, config, task, environments, device)
        steps = config.batch_size or config.rollout_steps
        threads = use_threads(config.threads, model.policy, steps, places=task.observation_size)
    except BaseException:
        environments.close()
        raise
    if device.type == "cpu":
        print(f"minrl: {describe_threads(threads, config.threads)}")
    seed_environments(environments, config, step)
    if agent_config.pretrained is not None and not agent_config.origin:
        start: Any = model.policy.pretrained
        agent_config = replace(agent_config, origin=dict(vars(start)))
    agent = PPOAgent(agent_config, task, model.policy).to(device)
    return Run(model, agent, config, vectorization, out)


def _model(
    agent_config: PPOConfig, config: OnlineConfig, task: Task, environments: Any, device: torch.device
) -> RecurrentPPO:
    rate = config.learning_rate
    policy_spaces = PolicySpaces(task.observation_space, task.action_space)
    if agent_config.cnn != "auto" and not policy_spaces.images:
        raise ValueError(f"cnn={agent_config.cnn}: the observations of {config.env} hold no image; leave it out")
    try:
        return RecurrentPPO(
            policy_spaces.policy,
            environments,
            learning_rate=rate if config.decay == "constant" else lambda left: rate * left,
            n_steps=config.n_steps,
            batch_size=config.batch_size or None,
            n_epochs=config.n_epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip_range,
            clip_range_vf=config.clip_range_vf,
            normalize_advantage=config.normalize_advantage,
            ent_coef=config.ent_coef,
            vf_coef=config.vf_coef,
            max_grad_norm=config.max_grad_norm,
            use_sde=agent_config.use_sde,
            sde_sample_freq=config.sde_sample_freq,
            target_kl=config.target_kl,
            policy_kwargs=agent_config.policy_kwargs(),
            seed=config.seed,
            device=device,
            segment_length=config.segment_length,
            state_refresh=config.state_refresh,
        )
    # Stable-Baselines3 asserts; torch's modules refuse some names by a KeyError.
    except (AssertionError, TypeError, RuntimeError, ZeroDivisionError, KeyError) as error:
        raise ValueError(f"no ppo agent can be made of these settings: {' '.join(str(error).split())}") from error
