"""Whole trajectories as flat arrays with episode bounds.

Shapes: N steps of all episodes, E episodes, O flat observation width, A flat action width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
import numpy.typing as npt

from minrl.data.environment import EnvironmentInfo

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Episodes:
    """A data set: episodes end to end, episode e in rows offsets[e] to offsets[e + 1].

    `observations[t]` is what the agent saw before `actions[t]`; what it saw after the last action of episode e is
    `final_observations[e]`. Spaces are flattened as `gymnasium.spaces.flatten` does (Discrete becomes one-hot).
    `terminated` and `truncated` tell why an episode ended; where neither is set only the recording ended.
    Any array may be memory-mapped and read-only. Raises ValueError where lengths disagree.
    """

    name: str
    observations: FloatArray  # (N, O)
    actions: FloatArray  # (N, A)
    rewards: FloatArray  # (N,)
    final_observations: FloatArray  # (E, O)
    offsets: IntArray  # (E + 1,)
    terminated: BoolArray  # (E,)
    truncated: BoolArray  # (E,)
    returns_to_go: FloatArray  # (N,) undiscounted, the reward of the step itself included
    observation_space: gymnasium.Space  # type: ignore[type-arg]
    action_space: gymnasium.Space  # type: ignore[type-arg]
    environment: EnvironmentInfo | None = None
    reference_scores: tuple[float, float] | None = None  # returns that score 0 and 100

    def __post_init__(self) -> None:
        steps, episodes = self.num_steps, self.num_episodes
        width = int(gymnasium.spaces.flatdim(self.observation_space))
        expected = {
            "observations": (steps, width),
            "actions": (steps, int(gymnasium.spaces.flatdim(self.action_space))),
            "rewards": (steps,),
            "final_observations": (episodes, width),
            "terminated": (episodes,),
            "truncated": (episodes,),
            "returns_to_go": (steps,),
        }
        for field, shape in expected.items():
            if getattr(self, field).shape != shape:
                raise ValueError(f"{self.name}: {field} has shape {getattr(self, field).shape}, expected {shape}")
        if episodes < 1 or self.offsets[0] != 0 or self.offsets[-1] != steps or self.lengths.min() < 1:
            raise ValueError(f"{self.name}: offsets must rise from 0 to {steps}, one step or more per episode")

    def __len__(self) -> int:
        return self.num_episodes

    @property
    def num_steps(self) -> int:
        """N, the steps of all episodes."""
        return int(self.rewards.shape[0])

    @property
    def num_episodes(self) -> int:
        """E, the number of episodes."""
        return int(self.offsets.shape[0]) - 1

    @property
    def lengths(self) -> IntArray:
        """Steps of each episode, (E,)."""
        return np.diff(self.offsets)

    @property
    def returns(self) -> npt.NDArray[np.float64]:
        """Undiscounted return of each episode, (E,)."""
        return np.add.reduceat(np.asarray(self.rewards, dtype=np.float64), self.offsets[:-1])

    def normalized_score(self, episode_return: float) -> float:
        """The return on D4RL's scale: 0 for a random agent, 100 for an expert.

        Source: D4RL (arXiv 2004.07219), section 5. Raises ValueError where the set has no reference scores.
        """
        if self.reference_scores is None:
            raise ValueError(f"{self.name} has no reference scores, so a return cannot be normalised")
        low, high = self.reference_scores
        return 100.0 * (float(episode_return) - low) / (high - low)

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> "Episodes":
        """The given episodes in the given order, copied; raises ValueError for none, IndexError for an unknown one."""
        chosen = np.arange(self.num_episodes)[np.asarray(indices, dtype=np.int64)]
        if chosen.size == 0:
            raise ValueError(f"{self.name}: an empty selection of episodes")
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return Episodes(
            name=self.name,
            observations=self.observations[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            final_observations=self.final_observations[chosen],
            offsets=offsets,
            terminated=self.terminated[chosen],
            truncated=self.truncated[chosen],
            returns_to_go=self.returns_to_go[rows],
            observation_space=self.observation_space,
            action_space=self.action_space,
            environment=self.environment,
            reference_scores=self.reference_scores,
        )


def returns_to_go(rewards: npt.NDArray[np.floating], offsets: IntArray) -> FloatArray:
    """Undiscounted R_t = r_t + R_{t+1} within each episode, summed in float64: (N,), (E + 1,) -> (N,)."""
    result = np.empty(len(rewards), dtype=np.float32)
    backwards = np.asarray(rewards, dtype=np.float64)[::-1]
    steps = len(rewards)
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        result[start:stop] = np.cumsum(backwards[steps - stop : steps - start])[::-1]
    return result


def build_episodes(
    *,
    name: str,
    observations: npt.ArrayLike,
    actions: npt.ArrayLike,
    rewards: npt.ArrayLike,
    final_observations: npt.ArrayLike,
    lengths: npt.ArrayLike,
    terminated: npt.ArrayLike,
    truncated: npt.ArrayLike,
    observation_space: gymnasium.Space,  # type: ignore[type-arg]
    action_space: gymnasium.Space,  # type: ignore[type-arg]
    environment: EnvironmentInfo | None = None,
    reference_scores: tuple[float, float] | None = None,
) -> Episodes:
    """Episodes from flat arrays in memory: (N, O), (N, A), (N,), (E, O), (E,), (E,), (E,)."""
    offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])
    flat_rewards = np.asarray(rewards, dtype=np.float32)
    if int(offsets[-1]) != len(flat_rewards):
        raise ValueError(f"{name}: lengths add up to {offsets[-1]} steps, rewards has {len(flat_rewards)}")
    return Episodes(
        name=name,
        observations=np.asarray(observations, dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=flat_rewards,
        final_observations=np.asarray(final_observations, dtype=np.float32),
        offsets=offsets,
        terminated=np.asarray(terminated, dtype=np.bool_),
        truncated=np.asarray(truncated, dtype=np.bool_),
        returns_to_go=returns_to_go(flat_rewards, offsets),
        observation_space=observation_space,
        action_space=action_space,
        environment=environment,
        reference_scores=reference_scores,
    )
