"""Episodes: a data set of whole trajectories as flat arrays with episode bounds.

Shapes: N steps of all episodes, E episodes, O flat observation width, A flat action width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from minrl.data.environment import EnvironmentInfo
from minrl.data.mapped import BYTES_AT_ONCE, leave_memory, room_beside
from minrl.data.masks.action_masks import mask_size
from minrl.data.moments import in_precision

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_STEPS_AT_ONCE = 1 << 20  # steps of a mapped set that are in memory while they are summed


@dataclass(frozen=True, eq=False)
class Episodes:
    """Data set of episodes end to end, episode e in rows offsets[e] to offsets[e + 1].

    `observations[t]` precedes `actions[t]`; `final_observations[e]` follows the last action of episode e. Spaces are
    flattened as `gymnasium.spaces.flatten` does (Discrete becomes one-hot). If neither `terminated` nor `truncated` is
    set, the recording stopped within the episode. Observations are uint8 for images, float64 if float32 would lose
    their values (an offset much larger than the spread), else float32; a batch has float64 or float32.
    Any array may be memory-mapped and read-only. Raises ValueError if lengths disagree.
    """

    name: str
    observations: npt.NDArray[Any]  # (N, O)
    actions: FloatArray  # (N, A)
    rewards: FloatArray  # (N,)
    final_observations: npt.NDArray[Any]  # (E, O)
    offsets: IntArray  # (E + 1,)
    terminated: BoolArray  # (E,)
    truncated: BoolArray  # (E,)
    returns_to_go: FloatArray  # (N,) undiscounted, the reward of the step itself included
    observation_space: gymnasium.Space  # type: ignore[type-arg]
    action_space: gymnasium.Space  # type: ignore[type-arg]
    environment: EnvironmentInfo | None = None
    reference_scores: tuple[float, float] | None = None  # returns that score 0 and 100
    action_masks: BoolArray | None = None  # (N, M) the choices that were allowed, see `minrl.data.masks`

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
        if self.action_masks is not None:
            expected["action_masks"] = (steps, mask_size(self.action_space))
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
        """Undiscounted return of each episode, (E,), summed in float64."""
        result = np.empty(self.num_episodes)
        for first, last in groups(self.offsets, _STEPS_AT_ONCE):
            start, stop = int(self.offsets[first]), int(self.offsets[last])
            pieces = [np.asarray(self.rewards[a:b], dtype=np.float64) for a, b in _pieces(start, stop)]
            if len(pieces) == 1:
                result[first:last] = np.add.reduceat(pieces[0], self.offsets[first:last] - start)
            else:
                result[first] = sum(float(piece.sum()) for piece in pieces)
        return result

    def normalized_score(self, episode_return: float) -> float:
        """Normalise a return to D4RL's scale: 0 for a random agent, 100 for an expert.

        Source: D4RL (arXiv 2004.07219), section 5. Raises ValueError if the set has no reference scores.
        """
        if self.reference_scores is None:
            raise ValueError(f"{self.name} has no reference scores, so a return cannot be normalised")
        low, high = self.reference_scores
        return 100.0 * (float(episode_return) - low) / (high - low)

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> "Episodes":
        """Copy the given episodes in the given order; large mapped arrays are copied to mapped files.

        Raises ValueError for an empty selection, IndexError for an unknown episode.
        """
        chosen = np.arange(self.num_episodes)[np.asarray(indices, dtype=np.int64)]
        if chosen.size == 0:
            raise ValueError(f"{self.name}: an empty selection of episodes")
        offsets = np.concatenate([[0], np.cumsum(self.lengths[chosen])])

        def rows(begin: int, end: int) -> IntArray:
            """Return the rows of this set for the steps [begin, end) of the selection."""
            steps = np.arange(begin, end)
            which = np.searchsorted(offsets, steps, side="right") - 1
            found: IntArray = steps + (self.offsets[chosen[which]] - offsets[which])
            return found

        def steps_of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return _take(array, int(offsets[-1]), rows)

        return Episodes(
            name=self.name,
            observations=steps_of(self.observations),
            actions=steps_of(self.actions),
            rewards=steps_of(self.rewards),
            final_observations=_take(self.final_observations, len(chosen), lambda a, b: chosen[a:b]),
            offsets=offsets,
            terminated=self.terminated[chosen],
            truncated=self.truncated[chosen],
            returns_to_go=steps_of(self.returns_to_go),
            observation_space=self.observation_space,
            action_space=self.action_space,
            environment=self.environment,
            reference_scores=self.reference_scores,
            action_masks=None if self.action_masks is None else steps_of(self.action_masks),
        )


def returns_to_go(
    rewards: npt.NDArray[np.floating], offsets: IntArray, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Compute undiscounted returns-to-go R_t = r_t + R_{t+1} in float64: (N,), (E + 1,) -> (N,).

    The result goes to `out` if given; memory beside it is constant.
    """
    result = np.empty(len(rewards), dtype=np.float32) if out is None else out
    for first, last in groups(offsets, _STEPS_AT_ONCE):
        start, stop = int(offsets[first]), int(offsets[last])
        if last == first + 1:
            later = None
            for begin, end in reversed(_pieces(start, stop)):
                backwards = np.array(rewards[begin:end], dtype=np.float64)[::-1]
                if later is not None:
                    backwards[0] += later
                sums = np.cumsum(backwards)
                later = sums[-1]
                result[begin:end] = sums[::-1]
            continue
        piece = np.asarray(rewards[start:stop], dtype=np.float64)
        for begin, end in pairwise((offsets[first : last + 1] - start).tolist()):
            result[start + begin : start + end] = np.cumsum(piece[begin:end][::-1])[::-1]
    return result


def spread(values: npt.NDArray[Any]) -> float:
    """Compute the standard deviation of (N,) in float64 and constant memory."""
    if len(values) <= _STEPS_AT_ONCE:
        return float(np.std(values, dtype=np.float64))
    pieces = _pieces(0, len(values))
    mean = sum(float(np.sum(values[a:b], dtype=np.float64)) for a, b in pieces) / len(values)
    squares = sum(float(np.sum(np.square(values[a:b].astype(np.float64) - mean))) for a, b in pieces)
    return float(np.sqrt(squares / len(values)))


def _take(array: npt.NDArray[Any], count: int, rows: Callable[[int, int], IntArray]) -> npt.NDArray[Any]:
    """Copy `count` rows of `array`; `rows(begin, end)` returns their indices for a piece of the copy."""
    result = room_beside(array, (count, *array.shape[1:]))
    for begin, end in _pieces(0, count, max(1, BYTES_AT_ONCE // max(8, array[:1].nbytes))):
        result[begin:end] = array[rows(begin, end)]
        leave_memory(result)
    return result


def groups(offsets: IntArray, steps: int) -> Iterator[tuple[int, int]]:
    """Group consecutive episodes into [first, last) of at most `steps` steps; a longer episode is alone."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + steps, side="right")) - 1
        yield first, max(first + 1, last)
        first = max(first + 1, last)


def _pieces(start: int, stop: int, most: int | None = None) -> list[tuple[int, int]]:
    """List bounds of pieces of at most `most` rows, _STEPS_AT_ONCE by default."""
    most = most or _STEPS_AT_ONCE
    return [(begin, min(begin + most, stop)) for begin in range(start, stop, most)]


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
    action_masks: npt.ArrayLike | None = None,
) -> Episodes:
    """Build episodes from flat arrays in memory: (N, O), (N, A), (N,), (E, O), (E,), (E,), (E,), and masks (N, M).

    Observations are kept as float64 if float32 would lose their values, else as float32.
    """
    offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])
    flat_rewards = np.asarray(rewards, dtype=np.float32)
    if int(offsets[-1]) != len(flat_rewards):
        raise ValueError(f"{name}: lengths add up to {offsets[-1]} steps, rewards has {len(flat_rewards)}")
    seen = in_precision(observations)
    return Episodes(
        name=name,
        observations=seen,
        actions=np.asarray(actions, dtype=np.float32),
        rewards=flat_rewards,
        final_observations=np.asarray(final_observations, dtype=seen.dtype),
        offsets=offsets,
        terminated=np.asarray(terminated, dtype=np.bool_),
        truncated=np.asarray(truncated, dtype=np.bool_),
        returns_to_go=returns_to_go(flat_rewards, offsets),
        observation_space=observation_space,
        action_space=action_space,
        environment=environment,
        reference_scores=reference_scores,
        action_masks=None if action_masks is None else np.asarray(action_masks, dtype=np.bool_),
    )
