"""Batches of whole trajectories (Packed) and of fixed windows (Windows).

Both are endless iterators over dicts of NumPy arrays and restore their random state exactly.
Shapes: B rows, T time, N steps of the set, E episodes, O and A flat widths.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.data.episode import BoolArray, Episodes, IntArray

NumpyBatch = dict[str, npt.NDArray[Any]]
_PHASE = 1  # key of a random stream independent of the seed's own


class Packed:
    """Batches of whole trajectories end to end in (B, T): no padding, `reset` True where an episode starts.

    Every row is an independent stream. An episode that does not fit is cut, and the rest continues in the same row of
    the next batch with `reset[b, 0]` False: carry the row's hidden state over, or start the rest from zeros.
    Episodes come in shuffled order, each once before any repeats. The cost of a batch depends on B x T only.

    Rows begin at random steps of their first episodes, spread evenly. If all began at step 0, rows of episodes of one
    length would stay in phase: with 1000 steps and `length` 500 every batch would hold either first halves or second
    halves. A row's first episode begins with `reset[b, 0]` False and no state to carry, so from zeros; that is one
    episode per row in a whole run. If all episodes have one length that divides `length`, each batch holds every time
    step equally often, and rows begin at step 0: no episode is cut, and gradients reach from its end to its start.
    """

    continues = True

    def __init__(self, episodes: Episodes, batch_size: int, length: int, *, seed: int = 0) -> None:
        _check_positive(batch_size=batch_size, length=length)
        self.episodes = episodes
        self.length = length
        self._lengths = episodes.lengths
        self._draw = _Draw(episodes.num_episodes, seed)
        self._episode = np.zeros(batch_size, dtype=np.int64)
        self._step = self._lengths[self._episode].copy()  # every row is at the end of an episode
        if (self._lengths != self._lengths[0]).any() or length % self._lengths[0]:
            # A separate random stream, so that the order of episodes depends on the seed alone.
            shift = np.random.default_rng([seed, _PHASE]).random()
            place = (shift + np.arange(batch_size) / batch_size) % 1.0
            self._episode = np.array([self._draw.next_episode() for _ in range(batch_size)], dtype=np.int64)
            self._step = (place * self._lengths[self._episode]).astype(np.int64)

    def __iter__(self) -> Iterator[NumpyBatch]:
        return self

    def __next__(self) -> NumpyBatch:
        """Return the next batch, with the keys of `Windows`; `mask` is True everywhere."""
        shape = len(self._episode), self.length
        rows = np.empty(shape, dtype=np.int64)
        steps = np.empty(shape, dtype=np.int64)
        for b in range(shape[0]):
            self._fill(b, rows[b], steps[b])
        return gather(self.episodes, rows, steps, steps == 0, np.ones(shape, dtype=np.bool_))

    def _fill(self, b: int, rows: IntArray, steps: IntArray) -> None:
        episode, step, t = int(self._episode[b]), int(self._step[b]), 0
        while t < self.length:
            if step == self._lengths[episode]:
                episode, step = self._draw.next_episode(), 0
            count = min(self.length - t, int(self._lengths[episode]) - step)
            steps[t : t + count] = np.arange(step, step + count)
            rows[t : t + count] = steps[t : t + count] + self.episodes.offsets[episode]
            step, t = step + count, t + count
        self._episode[b], self._step[b] = episode, step

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next batches depend on, in plain values."""
        return {
            "draw": self._draw.state_dict(),
            "episode": self._episode.tolist(),
            "step": self._step.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; raise ValueError for a state of another batch size or data set."""
        episode, step = (np.array(state[name], dtype=np.int64) for name in ("episode", "step"))
        if len(episode) != len(self._episode):
            raise ValueError(f"state of {len(episode)} rows, this batch has {len(self._episode)}")
        inside = (episode >= 0) & (episode < len(self._lengths))
        if step.shape != episode.shape or not inside.all() or ((step < 0) | (step > self._lengths[episode])).any():
            raise ValueError("state of steps that this data set does not have")
        self._draw.load_state_dict(state["draw"])
        self._episode, self._step = episode, step


class Windows:
    """Batches of Decision Transformer: K consecutive steps of one episode in each row, padded on the right.

    An episode is drawn in proportion to its length, the start uniformly among all its steps (arXiv 2106.01345,
    algorithm 1). `reset` is True at a row's first step only, `mask` False at padding.
    """

    continues = False

    def __init__(self, episodes: Episodes, batch_size: int, length: int, *, seed: int = 0) -> None:
        _check_positive(batch_size=batch_size, length=length)
        self.episodes = episodes
        self.batch_size = batch_size
        self.length = length
        self._cumulative = np.cumsum(episodes.lengths / episodes.lengths.sum())
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[NumpyBatch]:
        return self

    def __next__(self) -> NumpyBatch:
        """Return observations (B, K, O), actions and previous_actions (B, K, A), and rewards, returns_to_go,
        first_returns, time_steps, reset, mask (B, K); padding is zero, with `mask` False."""
        draws = self._random.random((2, self.batch_size))
        # The sum may end an ulp below 1; scaling by it keeps every draw inside.
        episode = np.searchsorted(self._cumulative, draws[0] * self._cumulative[-1], side="right")
        lengths = self.episodes.offsets[episode + 1] - self.episodes.offsets[episode]
        start = (draws[1] * lengths).astype(np.int64)
        steps = start[:, None] + np.arange(self.length)
        mask = steps < lengths[:, None]
        steps = np.where(mask, steps, 0)
        reset = np.zeros(steps.shape, dtype=np.bool_)
        reset[:, 0] = True
        rows = np.where(mask, steps + self.episodes.offsets[episode][:, None], 0)
        return gather(self.episodes, rows, steps, reset, mask)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next batches depend on, in plain values."""
        return {"random": _plain(self._random)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        _restore(self._random, state["random"])


class _Draw:
    """Endless episode indices in shuffled passes."""

    def __init__(self, count: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._count = count
        self._order: IntArray = np.empty(0, dtype=np.int64)
        self._next = 0

    def next_episode(self) -> int:
        """Return the index of the next episode."""
        if self._next == len(self._order):
            self._order, self._next = self._random.permutation(self._count), 0
        self._next += 1
        return int(self._order[self._next - 1])

    def state_dict(self) -> dict[str, Any]:
        return {"random": _plain(self._random), "order": self._order.tolist(), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        order = np.array(state["order"], dtype=np.int64)
        if len(order) not in (0, self._count):
            raise ValueError(f"state of a data set with {len(order)} episodes, this one has {self._count}")
        if (np.sort(order) != np.arange(len(order))).any() or not 0 <= int(state["next"]) <= len(order):
            raise ValueError("state of episodes that this data set does not have")
        _restore(self._random, state["random"])
        self._order, self._next = order, int(state["next"])


def gather(episodes: Episodes, rows: IntArray, steps: IntArray, reset: BoolArray, mask: BoolArray) -> NumpyBatch:
    """Gather the batch at given rows of the flat arrays, (B, T); rows where `mask` is False become zero.

    Args:
        episodes: N steps.
        rows: indices into the flat arrays, (B, T).
        steps: time steps of these rows within their episodes, (B, T).
        reset, mask: as in `minrl.agent.Batch`.
    """
    before = episodes.actions[np.maximum(rows - 1, 0)]
    before[(steps == 0) | ~mask] = 0.0
    seen = episodes.observations[rows]
    batch = {
        # float64 observations stay so: the normaliser centres them before it casts.
        "observations": seen if seen.dtype == np.float64 else seen.astype(np.float32, copy=False),
        "actions": episodes.actions[rows],
        "previous_actions": before,
        "rewards": episodes.rewards[rows],
        "returns_to_go": episodes.returns_to_go[rows],
        "first_returns": episodes.returns_to_go[rows - steps],
        "terminal": np.isin(rows, episodes.offsets[1:][episodes.terminated] - 1),
    }
    if episodes.action_masks is not None:
        batch["action_masks"] = episodes.action_masks[rows]
    if not mask.all():
        padding = ~mask
        for values in batch.values():
            values[padding] = 0.0
    return {**batch, "time_steps": steps, "reset": reset, "mask": mask}


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, not {size}")


def _plain(random: np.random.Generator) -> dict[str, Any]:
    """Return the generator's state; its 128-bit integers become strings, which every file format keeps."""
    state: Any = random.bit_generator.state
    return {**state, "state": {key: str(value) for key, value in state["state"].items()}}


def _restore(random: np.random.Generator, state: dict[str, Any]) -> None:
    numbers = {key: int(value) for key, value in state["state"].items()}
    random.bit_generator.state = {**state, "state": numbers}
