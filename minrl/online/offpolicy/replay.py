"""Replay of whole rows: the episodes of each environment end to end, instead of single transitions.

An environment's stream is a ring of observations. Each has the action that followed and its reward; the last
observation of an episode, which no action follows, is stored too, so that the value after a time limit comes from the
same scan. A sample is any piece of a stream: no padding, `reset` True where an episode begins.

Shapes: B rows, T time, N environments, C observations of a stream, S state size, A action width.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from minrl.online.inputs.segments import Observations, each
from minrl.online.offpolicy.stored import checked_arrays, checked_counters
from minrl.system.names import nearest

Array = npt.NDArray[Any]
# Hidden state at the start of a row: stored while acting; that, refreshed by a scan over the steps before the row;
# computed from the start of the row's episode; zero.
RowState = Literal["stored", "burn_in", "recomputed", "zero"]
_FLAGS = "final", "terminal"


class Rows(NamedTuple):
    """Sampled rows: the first `burn_in` steps only bring the hidden state up to date."""

    observations: Observations  # (B, T, ...)
    previous_actions: Tensor  # (B, T, A) meaningless where an episode begins, as the rewards
    previous_rewards: Tensor  # (B, T)
    state: Tensor  # (B, S) before the first step
    reset: Tensor  # (B, T) bool, True where an observation opens an episode
    actions: Tensor  # (B, T, A)
    rewards: Tensor  # (B, T)
    last: Tensor  # (B, T) bool, True where no observation of the same episode follows in the row
    final: Tensor  # (B, T) bool, True at the last observation of an episode, which no action follows
    terminal: Tensor  # (B, T) bool, True at a last observation with nothing to come: not after a time limit
    burn_in: int


def check_rows(row_state: str, burn_in: int, segment_length: int, capacity: int) -> None:
    """Raise ValueError for rows that cannot be sampled.

    Args:
        row_state: hidden state at the start of a row.
        burn_in: steps before a row that bring that state up to date.
        segment_length: steps of a row.
        capacity: C.
    """
    if row_state not in get_args(RowState):
        raise ValueError(f'row_state: unknown way "{row_state}"; {nearest(str(row_state), get_args(RowState))}')
    if (row_state == "burn_in") != (burn_in > 0):
        raise ValueError(f'burn_in counts the steps of row_state="burn_in", got {burn_in} with "{row_state}"')
    if segment_length < 2:
        raise ValueError(f"segment_length must be at least 2 steps, an observation and the next, got {segment_length}")
    if capacity < 2 * (segment_length + burn_in):
        raise ValueError(
            f"buffer_size must hold two rows of {segment_length + burn_in} steps for each environment, got room for "
            f"{capacity}"
        )


class SequenceBuffer(ReplayBuffer):
    """Stable-Baselines3's replay buffer, whose samples are rows.

    Args:
        buffer_size: observations of all environments together.
        observation_space, action_space, device, n_envs: as for `ReplayBuffer`.
        optimize_memory_usage: no effect: observations are stored once.
        segment_length: steps of a row.
        row_state: hidden state at its start.
        burn_in: steps before a row, for `row_state="burn_in"`.

    Raises:
        ValueError: as `check_rows`.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        segment_length: int = 64,
        row_state: RowState = "stored",
        burn_in: int = 0,
    ) -> None:
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.segment_length, self.row_state, self.burn_in = segment_length, row_state, burn_in
        self.handle_timeout_termination = True
        # States are stored at every `stride`-th place; rows begin there.
        self.stride = max(1, segment_length // 4) if self.stores_states else 1
        self.capacity = buffer_size // n_envs // self.stride * self.stride
        check_rows(row_state, burn_in, segment_length, self.capacity)
        shape, kind = (n_envs, self.capacity), np.float32 if isinstance(action_space, spaces.Box) else np.int64
        self.arrays: dict[str, Array] = {name: np.zeros(shape, np.bool_) for name in _FLAGS}
        self.arrays["rewards"] = np.zeros(shape, np.float32)
        self.arrays["ages"] = np.zeros(shape, np.int32)  # steps since the episode began
        self.arrays["actions"] = np.zeros((*shape, self.action_dim), kind)
        for name, space in self._parts():
            self.arrays[f"observations/{name}"] = np.zeros((*shape, *(space.shape or ())), space.dtype)
        self.arrays["states"] = self._no_states(0)  # the first step tells their size
        self.reset()

    @property
    def stores_states(self) -> bool:
        """Return True if rows begin from hidden states stored while acting."""
        return self.row_state in ("stored", "burn_in")

    def _no_states(self, size: int) -> Array:
        places = self.capacity // self.stride if self.stores_states else 0
        return np.zeros((self.n_envs, places, size), np.float32)

    def reset(self) -> None:
        """Empty the buffer."""
        self.heads = np.zeros(self.n_envs, np.int64)  # the next place of each stream
        self.sizes = np.zeros(self.n_envs, np.int64)
        self.pos, self.full = 0, False
        self.entering: Array | None = None  # (N, S) hidden states that enter the step to be added, before any reset
        self.begin()

    def begin(self) -> None:
        """Begin an episode with the next observation of every stream, as environments were reset."""
        self._ages = np.zeros(self.n_envs, np.int32)

    def size(self) -> int:
        """Return the number of stored observations."""
        return int(self.sizes.sum())

    def add(
        self, obs: Any, next_obs: Any, action: Array, reward: Array, done: Array, infos: list[dict[str, Any]]
    ) -> None:
        """Add a step of all environments.

        Args:
            obs: (N, ...) observations, or a dict of them.
            next_obs: those that follow, in the same episode.
            action: (N, A) or (N,).
            reward: (N,).
            done: (N,) True where the episode ends.
            infos: tell time limits by "TimeLimit.truncated"; rows of "filler" are left out.
        """
        state = self.entering
        if state is not None and self.arrays["states"].shape[2] != state.shape[1]:
            self.arrays["states"] = self._no_states(state.shape[1])
        rows = np.array([i for i, info in enumerate(infos) if not info.get("filler", False)], np.int64)
        self._write(rows, obs, state, rewards=reward[rows], actions=action.reshape(self.n_envs, -1)[rows])
        ended = rows[np.asarray(done, np.bool_)[rows]]
        if len(ended):
            limits = np.array([bool(infos[i].get("TimeLimit.truncated", False)) for i in ended])
            self._write(ended, next_obs, None, final=True, terminal=~limits)
            self._ages[ended] = 0
        self.pos, self.full = int(self.heads.max()), bool((self.sizes == self.capacity).all())

    def _write(self, rows: Array, observations: Any, state: Array | None, **values: Any) -> None:
        """Write one observation to each of the streams `rows`; values that are not given are zero."""
        at = self.heads[rows]
        for name in (*_FLAGS, "rewards", "actions"):
            self.arrays[name][rows, at] = values.get(name, 0)
        self.arrays["ages"][rows, at] = self._ages[rows]
        self._ages[rows] += 1
        for name, _ in self._parts():
            part = observations[name] if name else observations
            stored = self.arrays[f"observations/{name}"]
            stored[rows, at] = np.asarray(part)[rows].reshape(len(rows), *stored.shape[2:])
        if self.stores_states:
            due = at % self.stride == 0
            states = 0.0 if state is None else state[rows[due]]
            self.arrays["states"][rows[due], at[due] // self.stride] = states
        self.heads[rows] = (at + 1) % self.capacity
        self.sizes[rows] = np.minimum(self.sizes[rows] + 1, self.capacity)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Rows:  # type: ignore[override]
        """Draw rows with about `batch_size` steps, burn-in not counted; normalise them as `env` does now.

        Rows are shorter while no stream is long enough.

        Raises:
            ValueError: if no stream holds two observations.
        """
        held = self._held()
        length = int(min(self.segment_length, held.max()))
        if length < 2:
            raise ValueError("the replay buffer holds no two observations that follow each other; collect more steps")
        counts = np.maximum(held - length + 1, 0)
        drawn = np.random.randint(counts.sum(), size=max(1, batch_size // length))  # noqa: NPY002
        rows = np.searchsorted(np.cumsum(counts), drawn, side="right")
        first = drawn - (np.cumsum(counts) - counts)[rows]  # steps after the oldest
        oldest = (self.heads - held)[rows] % self.capacity
        before = self.burn_in
        if self.stores_states:
            first += -(oldest + first - before) % self.stride
            first -= np.where(first > counts[rows] - 1, self.stride, 0)
            first = np.maximum(first, 0)  # of a short stream, from the zero state at its beginning
        elif self.row_state == "recomputed":
            ages = self.arrays["ages"][rows, (oldest + first) % self.capacity]
            before = int(np.minimum(ages, first).max())
        return self.rows_at(rows, first, before, length, env)

    def rows_at(self, rows: Array, first: Array, before: int, length: int, env: VecNormalize | None = None) -> Rows:
        """Return given rows.

        Args:
            rows: (B,) their streams.
            first: (B,) the steps from the oldest of the stream to the first that counts.
            before: steps of burn-in.
            length: steps that count.
            env: that normalises them.
        """
        oldest = (self.heads - self._held())[rows] % self.capacity
        offsets = first[:, None] + np.arange(-before, length)
        # Places before the oldest step repeat it; the state begins anew at each.
        at = (np.maximum(offsets, 0) + oldest[:, None]) % self.capacity
        past, streams = (at - 1) % self.capacity, rows[:, None]
        found = {name: values[streams, at] for name, values in self.arrays.items() if name != "states"}
        reset = (found["ages"] == 0) | (offsets < 0)
        rewards, earlier = (self._normalize_reward(self.arrays["rewards"][streams, x], env) for x in (at, past))
        last = found["final"].copy()
        last[:, :-1] |= reset[:, 1:]
        last[:, -1] = True
        parts: Any = {name: found[f"observations/{name}"] for name, _ in self._parts()}
        seen: Any = self._normalize_obs(parts.get("", parts), env)
        tensor = self.to_torch
        return Rows(
            observations=each(seen, tensor),
            previous_actions=tensor(self.arrays["actions"][streams, past]),
            previous_rewards=tensor(np.asarray(earlier, np.float32)),
            state=tensor(self._states(rows, oldest, offsets[:, 0])),
            reset=tensor(reset),
            actions=tensor(found["actions"]),
            rewards=tensor(np.asarray(rewards, np.float32)),
            last=tensor(last),
            final=tensor(found["final"]),
            terminal=tensor(found["terminal"]),
            burn_in=before,
        )

    def _used(self, name: str, sizes: Array) -> int:
        """Return the places of an array that hold something of any stream of `sizes` (N,)."""
        used = int(sizes.max())
        return used if name != "states" else -(-used // self.stride) * self.stores_states

    def _held(self) -> Array:
        """Return the steps (N,) to draw from; the one before has to be there too, unless an episode begins."""
        return np.minimum(self.sizes, self.capacity - 1)

    def _states(self, rows: Array, oldest: Array, first: Array) -> Array:
        """Return the hidden states (B, S) stored at the steps `first` (B,); zero where there is none."""
        states = np.zeros((len(rows), self.arrays["states"].shape[2]), np.float32)
        place = (oldest + first) % self.capacity
        known = (first >= 0) & (place % self.stride == 0) & self.stores_states
        states[known] = self.arrays["states"][rows[known], place[known] // self.stride]
        return states

    def saved(self) -> dict[str, Any]:
        """Return what is stored, as tensors and plain values."""
        kept = {name: values[:, : self._used(name, self.sizes)] for name, values in self.arrays.items()}
        return {
            "arrays": {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in kept.items()},
            "heads": torch.from_numpy(self.heads.copy()),
            "sizes": torch.from_numpy(self.sizes.copy()),
            "ages": torch.from_numpy(self._ages.copy()),
        }

    def restore(self, saved: Any, state_size: int) -> None:
        """Restore `saved` of a model with hidden states of `state_size`; raise ValueError if it does not fit."""
        heads, sizes, ages = checked_counters(saved, self.n_envs, self.capacity)
        own = self.arrays | {"states": self._no_states(state_size)}
        used = {name: self._used(name, sizes) for name in own}
        choices = {f"observations/{name}": space for name, space in self._parts()} | {"actions": self.action_space}
        for name, values in checked_arrays(saved.get("arrays"), own, used, choices).items():
            own[name][:, : values.shape[1]] = values
        self.arrays = own
        self.heads, self.sizes, self._ages = heads, sizes, ages
        self.pos, self.full = int(heads.max()), bool((sizes == self.capacity).all())

    def _parts(self) -> list[tuple[str, Any]]:
        """Return the observations by name; one without parts has the name ""."""
        space = self.observation_space
        return list(space.spaces.items()) if isinstance(space, spaces.Dict) else [("", space)]
