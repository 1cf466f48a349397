"""Recording of whole episodes of policies as a Minari data set."""

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

from minrl.collect.policies import Policy, check_statistics, open_policy
from minrl.data import EnvironmentInfo, make_environment
from minrl.data.masks.action_masks import checked_masks, mask_size
from minrl.data.minari.folders import minari_folder
from minrl.data.minari.writer import EpisodeWriter, RecordedEpisode, record_set
from minrl.data.wrappers import EpisodeLimit, scalar_reward
from minrl.system.trust import trusting


@dataclass(frozen=True)
class Collected:
    """Data set that was written: Minari's name, its folder, and the returns."""

    name: str
    path: Path
    steps: int
    returns: tuple[float, ...]
    cut_off: int = 0  # episodes truncated after `DEFAULT_MAX_STEPS` steps, as the environment has no limit


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
    trust: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Collected:
    """Record whole episodes of a policy as a data set that `minari.load_dataset` reads.

    Nothing appears under the name before all episodes are complete; Ctrl-C leaves nothing behind. Each episode has a
    seed of its own, recorded with it: equal policy, environment and `seed` give equal data.

    Args:
        policy: path of a Stable-Baselines3 .zip, `random` (uniform), `waypoint` (PointMaze) or `guide` (memory
            tasks of minrl); several act one after another.
        environment: Gymnasium id; `package:id` imports the package first.
        episodes: number of episodes of each policy.
        out: `minari:NAME` or NAME, Minari's `[namespace/]name-v0`; written where Minari looks, under
            $MINARI_DATASETS_PATH or ~/.minari/datasets.
        deterministic: take the policy's mode; by default actions are sampled.
        vecnormalize: file of `VecNormalize.save`, for a policy trained on normalised observations.
        environment_options: keyword arguments of `gymnasium.make`.
        max_episode_steps: truncate episodes there in place of the environment's own limit; if it has none either, they
            are truncated after `minrl.data.wrappers.DEFAULT_MAX_STEPS` steps.
        float32: store float64 observations, actions and rewards as float32.
        compress: gzip the arrays.
        overwrite: replace an existing data set, once the new one is complete.
        trust: open files of policies and normalisation, whose pickled objects may run any code.
        metadata: further entries of metadata.json: author (a list), description, ref_min_score, ...
        progress: show a bar.

    Raises:
        ValueError: for an unknown policy or environment, a file that is not trusted or of other spaces, a taken name, a
            value that is not finite, or statistics that no policy reads.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be 1 or more, not {episodes}")
    sources = [policy] if isinstance(policy, str) else list(policy)
    if not sources:
        raise ValueError("no policy given; give a Stable-Baselines3 .zip, 'random', 'waypoint' or 'guide'")
    check_statistics(sources, vecnormalize)
    name = out.removeprefix("minari:")
    world = make_environment(EnvironmentInfo(environment, dict(environment_options or {}), max_episode_steps))
    try:
        with trusting(trust):
            policies = [
                open_policy(source, world, deterministic=deterministic, vecnormalize=vecnormalize) for source in sources
            ]
        labels = {
            "algorithm_name": ", ".join(dict.fromkeys(each.name for each in policies)),
            **(metadata or {}),
        }
        recording = record_set(name, world, float32=float32, compress=compress, overwrite=overwrite, metadata=labels)
        # Stable-Baselines3 samples from torch's global generator, whose state is restored.
        with recording as writer, torch.random.fork_rng(devices=[]):
            limited = EpisodeLimit(world)
            returns = record(writer, limited, policies, episodes, seed, progress)
    finally:
        world.close()
    return Collected(name, minari_folder() / name, writer.steps, tuple(returns), limited.cut_off)


def record(
    writer: EpisodeWriter,
    environment: gym.Env[Any, Any],
    policies: Sequence[Policy],
    episodes: int,
    seed: int,
    progress: bool,
) -> list[float]:
    """Run `episodes` episodes of each policy in turn, write them, and return the return of each."""
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
    """Run one episode from `reset(seed=seed)` to its end; `index` names it in errors."""
    observation, _ = environment.reset(seed=seed)
    # A stream other than the environment's: first states and actions must not share random numbers.
    policy.start(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
    observations = [copy.deepcopy(observation)]
    actions: list[Any] = []
    rewards: list[float] = []
    space = environment.action_space
    has_masks = environment.has_wrapper_attr("action_masks") and mask_size(space) > 0
    masks: list[Any] | None = [] if has_masks else None
    terminated = truncated = False
    while not (terminated or truncated):
        if masks is not None:
            given = environment.get_wrapper_attr("action_masks")()
            masks.append(checked_masks(space, given, 1, f"episode {index}, step {len(rewards)}: action_masks()")[0])
        action = as_element(space, policy.act(observation))
        observation, given, terminated, truncated, _ = environment.step(action)
        reward = scalar_reward(given)
        if not (math.isfinite(reward) and _is_finite(observation)):
            raise ValueError(
                f"episode {index}, step {len(rewards)}: the environment gave an observation or a reward that "
                f"is not finite; nothing was written"
            )
        # Environments may return the same array at each step and change it.
        observations.append(copy.deepcopy(observation))
        actions.append(action)
        rewards.append(reward)
    return RecordedEpisode(seed, observations, actions, rewards, bool(terminated), bool(truncated), masks)


def as_element(space: gym.Space[Any], action: Any) -> Any:
    """Convert an action to its space's own type, so that the recorded action is the executed one."""
    if isinstance(space, gym.spaces.Discrete):
        return int(action)
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        return copy.deepcopy(action)
    if np.issubdtype(space.dtype, np.integer):
        action = np.rint(action)  # the cast would truncate a policy's real numbers
    return np.array(action, space.dtype)


def _is_finite(observation: Any) -> bool:
    if isinstance(observation, Mapping):
        return all(_is_finite(value) for value in observation.values())
    if isinstance(observation, tuple):
        return all(_is_finite(value) for value in observation)
    return bool(np.isfinite(observation).all())
