"""Creation of the vectorised environments in which a policy learns.

Shapes: n_envs environments.
"""

import inspect
import multiprocessing
import signal
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.data.masks.action_masks import mask_size
from minrl.data.space_match import arranged
from minrl.data.spaces import AnySpace
from minrl.data.task import Task
from minrl.data.wrappers import ScalarReward
from minrl.online.flat_spaces import CLIP, PolicySpaces
from minrl.online.inputs.masks import METHOD
from minrl.online.settings import Config
from minrl.online.spaces import fit_spaces
from minrl.online.vector import as_vec_env
from minrl.runs.video import check_renders
from minrl.system.messages import one_line
from minrl.system.mujoco import quiet_mujoco


class Normalization(Protocol):
    """Settings of an agent: normalisation by Stable-Baselines3's `VecNormalize`."""

    @property
    def normalize_observations(self) -> bool:
        """Return True to standardise observations by running mean and spread."""

    @property
    def normalize_rewards(self) -> bool:
        """Return True to divide rewards by the running spread of the discounted return."""


def probe(config: Config) -> tuple[Task, str]:
    """Create one environment; return its task and the vectorisation to use ("native", "sync" or "async").

    Raises:
        ValueError: if it cannot be created, vectorised or rendered as set, or PPO does not support its spaces.
    """
    if not config.env:
        raise ValueError("no environment: give --env ID")
    quiet_mujoco()
    info = EnvironmentInfo(config.env, config.env_kwargs)
    with closing(make_environment(info)) as environment:
        try:
            # First, as its errors name the remedy for spaces that PPO does not support.
            PolicySpaces(environment.observation_space, environment.action_space)
            task = Task.in_environment(info, environment.observation_space, environment.action_space)
            masked = environment.has_wrapper_attr(METHOD) and mask_size(environment.action_space) > 0
            task = replace(task, masked=masked)
        except ValueError as error:
            raise ValueError(f"environment {config.env}: {error}") from error
        reason = _no_native(environment, config)
        modes = environment.metadata.get("render_modes") or []
    if config.vectorization == "native" and reason:
        raise ValueError(f"environment {config.env} has no native vectorisation that fits: {reason}")
    if config.video:
        check_renders(info, modes)
    if config.vectorization == "auto":
        # A native vector environment need not have the masks of the single one.
        return task, "sync" if reason or task.masked else "native"
    return task, config.vectorization


def open_environments(config: Config, options: Normalization, task: Task, kind: str) -> VecEnv:
    """Open `n_envs` environments, stepped in one of `probe`'s ways.

    Raises:
        ValueError: as `make_environment`, or if there is nothing to normalise.
    """
    info = EnvironmentInfo(config.env, config.env_kwargs)
    environments: VecEnv
    # The policy's order of keys, even if a resumed run finds another one.
    order = task.observation_space, task.action_space
    if kind == "native":
        environments = as_vec_env(_native(config))
        environments.observation_space = arranged(environments.observation_space, task.observation_space)
    else:
        makers: Any = [partial(_make, info, order)] * config.n_envs
        environments = SubprocVecEnv(makers) if kind == "async" else DummyVecEnv(makers)
    if not (options.normalize_observations or options.normalize_rewards):
        return environments
    keys = None
    if options.normalize_observations:
        keys = PolicySpaces(task.observation_space, task.action_space).normalized_keys()
    return VecNormalize(
        environments,
        norm_obs=options.normalize_observations,
        norm_reward=options.normalize_rewards,
        clip_obs=CLIP,
        clip_reward=CLIP,
        gamma=config.gamma,
        norm_obs_keys=keys,
    )


def seed_environments(environments: VecEnv, config: Config, step: int) -> None:
    """Seed the environments for their next reset.

    That depends on the run's step too, and differs from where evaluations begin, which count from the seed.
    """
    environments.seed(int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0] >> 1))


def reset_environments(model: Any, config: Config, step: int) -> None:
    """Reset a model's environments as a run does that is resumed from a checkpoint just saved at `step`."""
    seed_environments(model.env, config, step)
    model._last_obs = model.env.reset()
    model._last_episode_starts = np.ones(model.n_envs, dtype=bool)
    if hasattr(model, "forget"):
        model.forget()  # the hidden state of a recurrent policy
    if model.use_sde:
        # Noise for this rollout was drawn before the checkpoint; a resumed run draws it afterwards.
        model.policy.reset_noise(model.n_envs)


def _make(info: EnvironmentInfo, order: tuple[AnySpace, AnySpace]) -> gymnasium.Env[Any, Any]:
    if multiprocessing.parent_process() is not None:
        # Ctrl-C reaches every process of a terminal; the training process ends the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_mujoco()
    return Monitor(ScalarReward(fit_spaces(make_environment(info), like=order)))


def _native(config: Config) -> Any:
    spec = gymnasium.spec(config.env.rpartition(":")[2])
    make = partial(gymnasium.make_vec, spec, config.n_envs, "vector_entry_point", **config.env_kwargs)
    try:
        # Resets take no step in this mode.
        return make(autoreset_mode=AutoresetMode.SAME_STEP)
    except TypeError:
        return make()  # its mode is fixed


def _no_native(environment: gymnasium.Env[Any, Any], config: Config) -> str | None:
    """Return why the native vector environment of an id cannot be taken; None if it can."""
    spec = environment.spec
    if spec is None or spec.vector_entry_point is None:
        return "its id is registered without one"
    if fit_spaces(environment) is not environment:
        return "its spaces have to be fitted one by one"
    try:
        signature = inspect.signature(_creator(spec))
        signature.bind(num_envs=config.n_envs, **{**spec.kwargs, **config.env_kwargs})
        if config.env_kwargs:  # which a creator with further keywords may still refuse
            _native(config).close()
    except (TypeError, ImportError, AttributeError) as error:
        return one_line(error)
    return None


def _creator(spec: EnvSpec) -> Any:
    entry: Any = spec.vector_entry_point
    return entry if callable(entry) else load_env_creator(entry)
