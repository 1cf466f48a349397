"""Evaluation of an agent in its environment: numbered episodes with own seeds, several in parallel.

Shapes: B environments.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from minrl.agent import Actor, TargetReturnAgent
from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.data.wrappers import EpisodeLimit, ScalarReward
from minrl.play import Player
from minrl.system.evaluation_progress import EvaluationProgress
from minrl.system.mujoco import quiet_mujoco
from minrl.system.names import choose

Vectorization = Literal["sync", "async"]


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of the episodes of one target return."""

    environment: str
    target_return: float | None
    returns: tuple[float, ...]  # of each episode, in the order of their seeds
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    reference_scores: tuple[float, float] | None
    versions: dict[str, str]
    environment_kwargs: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None  # the limit that applied to each episode
    truncated: tuple[bool, ...] = ()  # for each episode, True if a limit ended it and not a terminal state
    capped_at: float | None = None  # the return aimed for in place of a higher `target_return`

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return."""
        return float(np.mean(self.returns))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean return over episodes; None for a single one."""
        return _standard_error(self.returns)

    @property
    def scores(self) -> tuple[float, ...] | None:
        """Returns on D4RL's scale: 0 is a random agent, 100 an expert; None without reference scores."""
        if self.reference_scores is None:
            return None
        low, high = self.reference_scores
        return tuple(100.0 * (r - low) / (high - low) for r in self.returns)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        scores = self.scores
        return {
            "environment": self.environment,
            "environment_kwargs": self.environment_kwargs,
            "max_episode_steps": self.max_episode_steps,
            "episodes": len(self.returns),
            "target_return": self.target_return,
            "target_capped_at": self.capped_at,
            "mean_return": self.mean_return,
            "standard_error": self.standard_error,
            "normalized_score": None if scores is None else float(np.mean(scores)),
            "normalized_standard_error": None if scores is None else _standard_error(scores),
            "mean_length": float(np.mean(self.lengths)),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "truncated_episodes": sum(self.truncated),
            "seeds": list(self.seeds),
            "versions": self.versions,
        }


def evaluate(
    agent: Actor,
    environment: EnvironmentInfo | None = None,
    *,
    episodes: int = 20,
    targets: Sequence[float] | None = None,
    environments: int = 10,
    seed: int = 0,
    deterministic: bool = True,
    vectorization: Vectorization = "sync",
    max_episode_steps: int | None = None,
    progress: bool = False,
) -> list[Evaluation]:
    """Run `episodes` episodes for each target return and report all of them.

    Episode i starts with `reset(seed=seed + i)` whichever environment runs it, and every numbered episode is run to
    its end or the limit: short episodes are not favoured, whatever the number of environments.

    That number can change the last digits of an action: BLAS sums a row of a matmul in another order in a batch of
    another size (up to 1e-6 in 30 float32 steps, 2e-15 in float64, for every cell but minGRU and minLSTM, whose
    compiled float32 step gives the same bits), and a chaotic environment magnifies them: the mean return of one Mamba
    agent changed by 0.75. Equal arguments give equal results.

    Actions are masked where agent and environment have action masks.

    Args:
        agent: any agent.
        environment: where to run; the one that the agent's data set names by default.
        episodes: for each target.
        targets: target returns, evaluated side by side in one batch; the agent's own by default.
        environments: environments in parallel for each target, at most.
        seed: of the first episode.
        deterministic: the most likely action instead of a sample.
        vectorization: "sync" steps environments one after another, "async" in processes of their own.
        max_episode_steps: steps after which an episode is truncated; by default the environment's own limit, or
            `minrl.data.wrappers.DEFAULT_MAX_STEPS` where it states none.
        progress: show a progress bar on a terminal, elsewhere a line on standard error every half minute.

    Raises:
        ValueError: if there is no environment, it cannot be made or its spaces do not fit the agent's, or if targets
            are not finite or the agent takes none.
    """
    environment = environment or agent.task.known_environment()
    if episodes < 1 or environments < 1:
        raise ValueError(f"episodes and environments must be at least 1, got {episodes} and {environments}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if max_episode_steps is not None:
        if max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        environment = environment.changed(max_episode_steps=max_episode_steps)
    if targets is not None:
        _check_targets(agent, targets)
    asked = [None] if targets is None else list(targets)
    slots = min(environments, episodes)
    rows = _run(agent, environment, asked, slots, episodes, seed, deterministic, vectorization, progress)
    most = agent.max_target_return if isinstance(agent, TargetReturnAgent) else math.inf
    results = []
    for k, target in enumerate(asked):
        wanted = agent.target_return if target is None else target
        result = Evaluation(
            environment=environment.id,
            target_return=wanted,
            returns=tuple(rows.returns[k].tolist()),
            lengths=tuple(rows.lengths[k].tolist()),
            seeds=tuple(range(seed, seed + episodes)),
            reference_scores=agent.task.reference_scores,
            versions=package_versions(),
            environment_kwargs=environment.kwargs,
            max_episode_steps=rows.limit,
            truncated=tuple(rows.truncated[k].tolist()),
            capped_at=most if wanted is not None and wanted > most else None,
        )
        results.append(result)
    return results


def _check_targets(agent: Actor, targets: Sequence[float]) -> None:
    """Raise ValueError for target returns that the agent does not take."""
    if agent.target_return is None:
        raise ValueError(f"agent {agent.name} takes no target return: leave the target out")
    if not targets:
        raise ValueError("the list of target returns is empty")
    for target in targets:
        if not math.isfinite(target):
            raise ValueError(f"the target return must be a number, got {target}")


@dataclass
class _Results:
    returns: npt.NDArray[np.float64]  # (targets, episodes)
    lengths: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]
    limit: int = 0  # steps of an episode

    @classmethod
    def empty(cls, *shape: int) -> "_Results":
        return cls(np.zeros(shape), np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_))


def _run(
    agent: Actor,
    environment: EnvironmentInfo,
    targets: Sequence[float | None],
    slots: int,
    episodes: int,
    seed: int,
    deterministic: bool,
    vectorization: Vectorization,
    progress: bool,
) -> _Results:
    """Run all episodes: row k * slots + j plays, for target k, episode j, then the next one not yet begun."""
    count = slots * len(targets)
    results = _Results.empty(len(targets), episodes)
    running = np.tile(np.arange(slots), len(targets))  # (B,) the episode of each row
    following = [slots] * len(targets)
    asked = None if targets == [None] else np.repeat(np.array(targets, dtype=np.float64), slots)
    player = Player(agent, count, target_return=asked, deterministic=deterministic)
    with closing(_vector(environment, count, vectorization)) as vector:
        agent.task.check_fits(vector.single_observation_space, vector.single_action_space, environment.id)
        # Gymnasium's class does not know its environments' methods.
        masked = agent.task.masked and all(vector.call("has_wrapper_attr", "action_masks"))
        results.limit = vector.get_attr("max_episode_steps")[0]
        observations, _ = vector.reset(seed=[seed + int(e) for e in running])
        rewards, starts = np.zeros(count), np.ones(count, dtype=np.bool_)
        returns, lengths, left = np.zeros(count), np.zeros(count, dtype=np.int64), len(targets) * episodes
        with EvaluationProgress(left, shown=progress) as shown:
            while left:
                actions = player.act(observations, rewards, starts, vector.call("action_masks") if masked else None)
                observations, rewards, terminated, truncated, _ = vector.step(actions)
                returns += rewards
                lengths += 1
                starts = terminated | truncated
                shown.step(lengths)
                for row in np.flatnonzero(starts):
                    target, episode = row // slots, running[row]
                    if episode < episodes:
                        results.returns[target, episode] = returns[row]
                        results.lengths[target, episode] = lengths[row]
                        results.truncated[target, episode] = truncated[row] and not terminated[row]
                        left -= 1
                        shown.end_episode()
                    # A row without a further episode keeps stepping, unrecorded, until all are done.
                    running[row], following[target] = following[target], following[target] + 1
                    returns[row], lengths[row] = 0.0, 0
                if starts.any() and left:
                    seeds = [seed + int(e) for e in running]
                    observations, _ = vector.reset(seed=seeds, options={"reset_mask": starts})
    return results


def _vector(environment: EnvironmentInfo, count: int, vectorization: Vectorization) -> Any:
    kinds: dict[str, Any] = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}
    makers = [partial(_make, environment)] * count
    return choose(kinds, vectorization, "vectorization")(makers, autoreset_mode=AutoresetMode.DISABLED)


def _make(environment: EnvironmentInfo) -> gymnasium.Env[Any, Any]:
    quiet_mujoco()
    return EpisodeLimit(ScalarReward(make_environment(environment)))


def package_versions() -> dict[str, str]:
    """Return the installed versions of packages that a score depends on."""
    return dict(_package_versions())


@cache  # reading the metadata of a package takes 10 ms
def _package_versions() -> tuple[tuple[str, str], ...]:
    packages = ("minrl", "torch", "gymnasium", "mujoco", "gymnasium-robotics")
    return tuple((name, version(name)) for name in packages if find_spec(name.replace("-", "_")) is not None)


def _standard_error(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
