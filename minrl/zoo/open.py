"""Opening of a saved policy: its settings, spaces and weights put together, and what needs the user's trust."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.data.spaces import AnySpace, leaves
from minrl.data.task import Task
from minrl.system.messages import one_line
from minrl.system.trust import trusting, trusts_files
from minrl.zoo.actions import HeadSize
from minrl.zoo.agent import ZipAgent, ZipConfig
from minrl.zoo.archive import Stored, UnreadableError, read_stored
from minrl.zoo.settings import Settings, read_settings
from minrl.zoo.spaces import check_actions, parts_of, stored_space
from minrl.zoo.statistics import Statistics, find_statistics, read_statistics
from minrl.zoo.trusted import TrustedAgent, trusted_statistics
from minrl.zoo.weights import Layers, read_layers

_TRUST = "if you trust where it comes from, repeat the command with --trust (in Python trust=True)"


def load_zip(
    path: Path | str,
    env: gymnasium.Env[Any, Any] | Any = None,
    *,
    vecnormalize: Path | str | None = None,
    environment: EnvironmentInfo | None = None,
    trust: bool = False,
) -> ZipAgent | TrustedAgent:
    """Open a policy that Stable-Baselines3 or sb3-contrib saved; no code in the file runs.

    PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, SAC, TQC, TD3, DDPG, DQN, QR-DQN and ARS with their own policies, also
    those that were saved in the days of `gym`.

    Args:
        path: of the .zip.
        env: environment of the training, of which only the spaces are read; without one the spaces are those that the
            file states as text.
        vecnormalize: file of `VecNormalize.save`; its statistics then apply to observations.
        environment: record of `env`, for what is written from the policy.
        trust: open other policies too, by Stable-Baselines3's own loader, which runs whatever code the file names; they
            need `env`.

    Raises:
        UnreadableError: a ValueError, if acting needs code of the file, such as a policy class of one's own, and the
            file is not trusted.
        ValueError: if the file or the statistics are damaged or do not fit the environment.
    """
    file = Path(path).expanduser()
    with trusting(trust):
        statistics = None if vecnormalize is None else read_vecnormalize(vecnormalize)
        stored = read_stored(file)
        try:
            with _faults_of(file, None if vecnormalize is None else Path(vecnormalize)):
                return _agent(stored, env, environment, statistics)
        except UnreadableError as error:
            if not trusts_files():
                raise UnreadableError(f"{file}: {error}; only its own code can act with it: {_TRUST}") from error
            if env is None:
                raise ValueError(f"{file}: {error}; name the environment of its training with --env ID") from error
            task = _task(file, env.observation_space, env.action_space, environment, wide=statistics is not None)
            return TrustedAgent(file, task, statistics).eval()


def load_zip_in(
    file: Path, environment: EnvironmentInfo | None, *, vecnormalize: str | None = None
) -> ZipAgent | TrustedAgent:
    """Open a policy in the environment that the user names, as `load_zip` does, with the statistics beside the file.

    Args:
        file: path of the .zip.
        environment: made for its spaces and closed again; None takes those that the file states.
        vecnormalize: as for `minrl.zoo.find_statistics`.

    Raises:
        ValueError: as `load_zip`, or if the environment cannot be made.
    """
    statistics = find_statistics(file, vecnormalize)
    if environment is None:
        return load_zip(file, vecnormalize=statistics)
    with closing(make_environment(environment)) as world:
        return load_zip(file, world, vecnormalize=statistics, environment=environment)


def read_vecnormalize(path: Path | str) -> Statistics | None:
    """Read statistics as `minrl.zoo.statistics.read_statistics` does; of other classes too if files are trusted."""
    file = Path(path).expanduser()
    if not file.is_file():
        what = "no regular file" if file.exists() else "no such file"
        raise ValueError(f"{path}: {what}; give what VecNormalize.save wrote")
    try:
        return read_statistics(file)
    except UnreadableError as error:
        if trusts_files():
            return trusted_statistics(file)
        raise UnreadableError(f"{file}: {error}; it is not opened: {_TRUST}") from error


@contextmanager
def _faults_of(file: Path, other: Path | None) -> Iterator[None]:
    """Give errors of reading one line that begins with the file; those of `UnreadableError` pass."""
    try:
        yield
    except UnreadableError:
        raise
    except RuntimeError as error:  # of weights whose shapes are not those of a layer
        raise ValueError(f"{file}: its weights do not fit each other ({one_line(error)})") from error
    except ValueError as error:
        text = str(error)
        if str(file) in text or (other is not None and str(other) in text):
            raise
        raise ValueError(f"{file}: {one_line(error)}") from error


def _agent(stored: Stored, env: Any, environment: EnvironmentInfo | None, statistics: Statistics | None) -> ZipAgent:
    settings = read_settings(stored)
    trained = {name: stored_space(stored, name) for name in ("observation_space", "action_space")}
    observed, acted = (_space(stored, env, name, trained[name]) for name in trained)
    parts = parts_of(trained["observation_space"], observed, str(stored.file))
    if trained["action_space"] is not None:
        check_actions(trained["action_space"], acted, str(stored.file))
    layers = read_layers(stored.weights, settings, parts)
    head = _head(settings, layers, acted, trained["action_space"])
    config = ZipConfig(
        algorithm=settings.algorithm,
        parts=parts,
        cnns=layers.cnns,
        lstm=layers.lstm,
        hidden=layers.hidden,
        activation=settings.activation,
        head=head,
        normalize_images=settings.normalize_images,
        standardizes=statistics is not None,
    )
    task = _task(stored.file, observed, acted, environment, wide=statistics is not None)
    agent = ZipAgent(config, dataclasses.replace(task, masked=settings.maskable and _has_masks(env)))
    _fill(agent, layers)
    if agent.standardizer is not None and statistics is not None:
        agent.standardizer.copy_statistics(statistics, parts)
    return agent.eval()


def _space(stored: Stored, env: Any, name: str, trained: AnySpace | None) -> AnySpace:
    if env is not None:
        found: AnySpace = getattr(env, name)
        return found
    if trained is None:
        raise ValueError(
            f"{stored.file}: its {name} cannot be read from its plain text; name the environment of its training with "
            "--env ID (in Python load_zip(path, env))"
        )
    return trained


def _task(file: Path, observed: AnySpace, acted: AnySpace, environment: EnvironmentInfo | None, *, wide: bool) -> Task:
    task = Task.in_environment(environment or EnvironmentInfo(""), observed, acted)
    # Without statistics Stable-Baselines3 casts to float32 at once.
    return dataclasses.replace(
        task,
        dataset=f"zip:{file.name}",
        environment=environment,
        wide_observations=wide and task.wide_observations,
    )


def _has_masks(env: Any) -> bool:
    """Return True if an environment has action masks, or none is there to tell."""
    return env is None or not isinstance(env, gymnasium.Env) or bool(env.has_wrapper_attr("action_masks"))


def _fill(agent: ZipAgent, layers: Layers) -> None:
    """Copy the weights of the file into an agent, which has its own statistics and bounds."""
    weights = {
        name.replace("cnns.", "features.cnns.", 1) if name.startswith("cnns.") else name: value
        for name, value in layers.weights.items()
    }
    kept = {name: value for name, value in agent.state_dict().items() if name not in weights}
    agent.load_state_dict(weights | kept)


def _head(settings: Settings, layers: Layers, acted: AnySpace, trained: AnySpace | None) -> HeadSize:
    """Return size and kind of the last layer.

    Raises:
        ValueError: if its width is not that of the actions.
    """
    parts = [leaf.space for leaf in leaves(acted)]
    if len(parts) == 1 and isinstance(parts[0], spaces.Box):
        _check_width(layers.head.outputs, int(np.prod(parts[0].shape)), acted)
        return _box_head(settings, layers, trained if isinstance(trained, spaces.Box) else parts[0], parts[0])
    if any(isinstance(part, spaces.Box) for part in parts):
        raise ValueError(f"no policy of Stable-Baselines3 acts in {acted}")
    flags = all(isinstance(part, spaces.MultiBinary) for part in parts)
    if flags and not settings.maskable and not isinstance(trained, spaces.MultiDiscrete):
        _check_width(layers.head.outputs, sum(leaf.raw_width for leaf in leaves(acted)), acted)
        return HeadSize(layers.head, "flags")
    sizes: list[int] = []
    for part in parts:
        if isinstance(part, spaces.MultiBinary):
            sizes += [2] * int(np.prod(part.shape))
        elif isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
            sizes += [int(n) for n in np.reshape(part.n if isinstance(part, spaces.Discrete) else part.nvec, -1)]
        else:
            raise ValueError(f"no policy of Stable-Baselines3 acts in {acted}")
    values = settings.kind in ("dqn", "qrdqn", "ars")
    if values and len(sizes) > 1:
        raise ValueError(f"{settings.algorithm} takes one choice, not {acted}")
    quantiles = max(1, layers.head.outputs // sizes[0]) if settings.kind == "qrdqn" else 1
    _check_width(layers.head.outputs, sum(sizes) * quantiles, acted)
    epsilon = settings.exploration_rate if settings.kind in ("dqn", "qrdqn") else 0.0
    return HeadSize(layers.head, "choices", tuple(sizes), quantiles=quantiles, greedy=values, epsilon=epsilon)


def _box_head(settings: Settings, layers: Layers, trained: spaces.Box, box: spaces.Box) -> HeadSize:
    if settings.kind in ("dqn", "qrdqn"):
        raise ValueError(f"{settings.algorithm} takes choices, not {box}")
    squash = {
        "sac": True,
        "td3": True,
        "ars": bool(layers.hidden) or settings.has_net_arch
        if settings.squash_output is None
        else settings.squash_output,
        "actor-critic": bool(settings.squash_output),
    }[settings.kind]
    # The text of the settings has eight digits, the environment all.
    same = trained.shape == box.shape and np.allclose(trained.low, box.low) and np.allclose(trained.high, box.high)
    bounds = box if same else trained
    low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (bounds.low, bounds.high))
    if squash and not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"its actions are scaled to bounds, and {bounds} has none")
    return HeadSize(
        layers.head,
        "box",
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        squash=squash,
        clip_mean=settings.clip_mean if layers.clips_mean else 0.0,
        log_std=layers.log_std,
        std=layers.std_head,
        sde=settings.use_sde and layers.std_head is None,
        full_std=settings.full_std,
        use_expln=settings.use_expln,
    )


def _check_width(outputs: int, wanted: int, acted: AnySpace) -> None:
    if outputs != wanted:
        raise ValueError(f"its last layer has {outputs} outputs, actions of {acted} need {wanted}")
