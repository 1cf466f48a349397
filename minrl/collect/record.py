"""Collecting a Minari data set: policies act in an environment, every episode is recorded whole."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from minrl.collect.policies import Policy, open_policy
from minrl.data import EnvironmentInfo, make_environment
from minrl.data.episode_limit import EpisodeLimit
from minrl.data.minari.writer import MinariWriter, RecordedEpisode
from minrl.data.rewards import scalar_reward


@dataclass(frozen=True)
class Collected:
    """What was written: Minari's name, its folder, and what the episodes earned."""

    name: str
    path: Path
    steps: int
    returns: tuple[float, ...]
    cut_off: int = 0  # episodes truncated after `DEFAULT_MAX_STEPS` steps, as the environment states no limit


def collect(
    policy: str | Sequence[str],
    environment: str,
    episodes: int,
    out: str,
    *,
    seed: int = 0,
    deterministic: bool = False,
    vecnormalize: str | None = None,
    environment_options: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    float32: bool = False,
    compress: bool = False,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Collected:
    """Lets a policy act for whole episodes and writes them as a data set that `minari.load_dataset` reads.

    Nothing appears under the name before all episodes are complete; Ctrl-C leaves nothing behind. Each
    episode has a seed of its own, recorded with it: the same policy, environment and `seed` give the same
    data again.

    Args:
        policy: path of a Stable-Baselines3 .zip, `random` (uniform), or `waypoint` (PointMaze); several act
            one after another.
        environment: Gymnasium id; `package:id` imports the package first.
        episodes: how many each policy runs.
        out: `minari:NAME` or NAME, Minari's `[namespace/]name-v0`; written where Minari looks, under
            $MINARI_DATASETS_PATH or ~/.minari/datasets.
        deterministic: take the policy's mode; by default its actions are drawn.
        vecnormalize: what `VecNormalize.save` wrote, for a policy trained on normalised observations.
        environment_options: keyword arguments of `gymnasium.make`.
        max_episode_steps: cut episodes there, in place of the environment's own limit; where it states none either,
            they are cut after `minrl.data.episode_limit.DEFAULT_MAX_STEPS` steps.
        float32: store float64 observations, actions and rewards as float32.
        compress: gzip the arrays.
        overwrite: replace an existing data set, once the new one is complete.
        metadata: further entries of metadata.json: author (a list), description, ref_min_score, ...
        progress: show a bar.

    Raises:
        ValueError: unknown policy or environment, a file for other spaces, a taken name, a value that is
            not finite.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be 1 or more, not {episodes}")
    sources = [policy] if isinstance(policy, str) else list(policy)
    if not sources:
        raise ValueError("no policy given; give a Stable-Baselines3 .zip, 'random', or 'waypoint' (point mazes)")
    name = out.removeprefix("minari:")
    world = make_environment(EnvironmentInfo(environment, dict(environment_options or {}), max_episode_steps))
    try:
        policies = [
            open_policy(source, world, deterministic=deterministic, vecnormalize=vecnormalize) for source in sources
        ]
        labels = {
            "algorithm_name": ", ".join(dict.fromkeys(each.name for each in policies)),
            **(metadata or {}),
        }
        writer = MinariWriter(name, world, float32=float32, compress=compress, overwrite=overwrite, metadata=labels)
        # Stable-Baselines3 draws actions from torch's global stream; the caller's is put back.
        with writer, torch.random.fork_rng(devices=[]):
            limited = EpisodeLimit(world)
            returns = record(writer, limited, policies, episodes, seed, progress)
    finally:
        world.close()
    return Collected(name, writer.target, writer.steps, tuple(returns), limited.cut_off)


def record(
    writer: MinariWriter,
    environment: gym.Env[Any, Any],
    policies: Sequence[Policy],
    episodes: int,
    seed: int,
    progress: bool,
) -> list[float]:
    """Runs `episodes` episodes of each policy in turn into `writer`; the return of each."""
    seeds = np.random.SeedSequence(seed).generate_state(episodes * len(policies)).tolist()
    returns: list[float] = []
    with tqdm(total=len(seeds), desc="collecting", unit="episode", disable=not progress) as bar:
        for index, episode_seed in enumerate(seeds):
            episode = run_episode(environment, policies[index // episodes], episode_seed, index)
            writer.add(episode)
            returns.append(float(np.sum(episode.rewards)))
            bar.update()
            bar.set_postfix(steps=writer.steps, mean_return=f"{np.mean(returns):.1f}", refresh=False)
    return returns


def run_episode(environment: gym.Env[Any, Any], policy: Policy, seed: int, index: int) -> RecordedEpisode:
    """One episode from `reset(seed=seed)` to its end; `index` only names it in errors."""
    observation, _ = environment.reset(seed=seed)
    # Another stream than the environment's: first states and actions must not be drawn from the same numbers.
    policy.start(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
    observations = [copy.deepcopy(observation)]
    actions: list[Any] = []
    rewards: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated):
        action = as_element(environment.action_space, policy.act(observation))
        observation, given, terminated, truncated, _ = environment.step(action)
        reward = scalar_reward(given)
        if not (math.isfinite(reward) and finite(observation)):
            raise ValueError(
                f"episode {index}, step {len(rewards)}: the environment gave an observation or a reward that "
                f"is not finite; nothing was written"
            )
        # Environments may hand out, and change, the same array at each step.
        observations.append(copy.deepcopy(observation))
        actions.append(action)
        rewards.append(reward)
    return RecordedEpisode(seed, observations, actions, rewards, bool(terminated), bool(truncated))


def as_element(space: gym.Space[Any], action: Any) -> Any:
    """The action in its space's own type, so that what is recorded is what was executed."""
    if isinstance(space, gym.spaces.Discrete):
        return int(action)
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        return copy.deepcopy(action)
    if np.issubdtype(space.dtype, np.integer):
        action = np.rint(action)  # a policy's real numbers, which the cast would cut off
    return np.array(action, space.dtype)


def finite(observation: Any) -> bool:
    if isinstance(observation, Mapping):
        return all(finite(value) for value in observation.values())
    if isinstance(observation, tuple):
        return all(finite(value) for value in observation)
    return bool(np.isfinite(observation).all())
