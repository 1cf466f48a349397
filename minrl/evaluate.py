"""Evaluation in the real environment: numbered episodes, each with its own seed, several at once.

Shapes: B environments.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from tqdm import tqdm

from minrl.agent import Actor
from minrl.choices import choose
from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.physics import quiet_mujoco
from minrl.play import Player

Vectorization = Literal["sync", "async"]


@dataclass(frozen=True)
class Evaluation:
    """What an agent reached when asked for one target return."""

    environment: str
    target_return: float | None
    returns: tuple[float, ...]  # of each episode, in the order of their seeds
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    reference_scores: tuple[float, float] | None
    versions: dict[str, str]

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return."""
        return float(np.mean(self.returns))

    @property
    def standard_error(self) -> float:
        """Of the mean return, over episodes; 0 for a single one."""
        return _standard_error(self.returns)

    @property
    def scores(self) -> tuple[float, ...] | None:
        """Returns on D4RL's scale: 0 is a random agent, 100 an expert; None without reference scores."""
        if self.reference_scores is None:
            return None
        low, high = self.reference_scores
        return tuple(100.0 * (r - low) / (high - low) for r in self.returns)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        scores = self.scores
        return {
            "environment": self.environment,
            "episodes": len(self.returns),
            "target_return": self.target_return,
            "mean_return": self.mean_return,
            "standard_error": self.standard_error,
            "normalized_score": None if scores is None else float(np.mean(scores)),
            "normalized_standard_error": None if scores is None else _standard_error(scores),
            "mean_length": float(np.mean(self.lengths)),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
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
    progress: bool = False,
) -> list[Evaluation]:
    """Run `episodes` episodes for each target return and report all of them.

    Episode i opens with `reset(seed=seed + i)` whichever environment runs it, and every numbered episode is run
    to its end: short episodes are not favoured, and the number of environments changes no episode.

    Args:
        agent: any agent.
        environment: where to run; the one that the agent's data set names by default.
        episodes: for each target.
        targets: returns to ask for, side by side in one batch; the agent's own by default.
        environments: at most so many at once for each target.
        seed: of the first episode.
        deterministic: the most likely action instead of a sample.
        vectorization: "sync" steps environments one after another, "async" in processes of their own.
        progress: show a progress bar.

    Raises:
        ValueError: if there is no environment, it cannot be made or its spaces do not fit the agent's.
    """
    environment = environment or agent.task.known_environment()
    if episodes < 1 or environments < 1:
        raise ValueError(f"episodes and environments must be at least 1, got {episodes} and {environments}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    asked = [None] if targets is None else list(targets)
    slots = min(environments, episodes)
    rows = _run(agent, environment, asked, slots, episodes, seed, deterministic, vectorization, progress)
    return [
        Evaluation(
            environment=environment.id,
            target_return=agent.target_return if target is None else target,
            returns=tuple(rows.returns[k].tolist()),
            lengths=tuple(rows.lengths[k].tolist()),
            seeds=tuple(range(seed, seed + episodes)),
            reference_scores=agent.task.reference_scores,
            versions=package_versions(),
        )
        for k, target in enumerate(asked)
    ]


@dataclass(frozen=True)
class _Results:
    returns: npt.NDArray[np.float64]  # (targets, episodes)
    lengths: npt.NDArray[np.int64]


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
    """Row k * slots + j runs, for target k, episodes j, then whichever is next in line."""
    count = slots * len(targets)
    results = _Results(np.zeros((len(targets), episodes)), np.zeros((len(targets), episodes), dtype=np.int64))
    running = np.tile(np.arange(slots), len(targets))  # (B,) the episode of each row
    following = [slots] * len(targets)
    asked = None if targets == [None] else np.repeat(np.array(targets, dtype=np.float64), slots)
    player = Player(agent, count, target_return=asked, deterministic=deterministic)
    with closing(_vector(environment, count, vectorization)) as vector:
        agent.task.check_fits(vector.single_observation_space, vector.single_action_space, environment.id)
        observations, _ = vector.reset(seed=[seed + int(e) for e in running])
        rewards, starts = np.zeros(count), np.ones(count, dtype=np.bool_)
        returns, lengths, left = np.zeros(count), np.zeros(count, dtype=np.int64), len(targets) * episodes
        with tqdm(total=left, desc="evaluate", unit="episode", disable=None if progress else True, leave=False) as bar:
            while left:
                actions = player.act(observations, rewards, starts)
                observations, rewards, terminated, truncated, _ = vector.step(actions)
                returns += rewards
                lengths += 1
                starts = terminated | truncated
                for row in np.flatnonzero(starts):
                    target = row // slots
                    if running[row] < episodes:
                        results.returns[target, running[row]] = returns[row]
                        results.lengths[target, running[row]] = lengths[row]
                        left -= 1
                        bar.update()
                    # A row without a further episode of its own goes on unrecorded until all are done.
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
    return make_environment(environment)


def package_versions() -> dict[str, str]:
    """Versions of what a score depends on, where installed."""
    packages = ("minrl", "torch", "gymnasium", "mujoco", "gymnasium-robotics")
    return {name: version(name) for name in packages if find_spec(name.replace("-", "_")) is not None}


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
