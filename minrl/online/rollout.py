"""Rollout buffer of segments with the hidden state at their starts, instead of single transitions.

Shapes: B segments, T time, S state size, P width of the previous action and reward, N = B * T rows that count.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from minrl.online.inputs.segments import Observations, Segments, each, segment_cuts


class SegmentBuffer(RolloutBuffer):
    """Stable-Baselines3's rollout buffer, whose minibatches are whole segments.

    Segments are cut at the same steps in all environments; their lengths differ by one at most. Only the hidden states
    at their starts are stored.

    Args:
        segment_length: most steps of a segment; `None` is the size of a minibatch or the whole rollout, whichever
            is shorter.
        keywords: as for `RolloutBuffer`.
    """

    observations: Any

    def __init__(self, *arguments: Any, segment_length: int, **keywords: Any) -> None:
        self.segment_length = segment_length
        # Set by the algorithm: recomputes the states (n, n_envs, S) at the cuts from the first.
        self.refresh: Callable[[], Tensor] | None = None
        super().__init__(*arguments, **keywords)
        self.cuts = segment_cuts(self.buffer_size, segment_length)
        self._cut_at = {step: i for i, step in enumerate(self.cuts[:-1])}

    def reset(self) -> None:
        """Clear the rollout."""
        steps = (self.buffer_size, self.n_envs)
        # Samples as they are: the dtype of an integer Box would round them and change their likelihood.
        kind = np.float32 if isinstance(self.action_space, spaces.Box) else self.action_space.dtype
        self.actions = np.zeros((*steps, self.action_dim), dtype=kind)
        for name in ("rewards", "returns", "values", "log_probs", "advantages", "episode_starts"):
            setattr(self, name, np.zeros(steps, dtype=np.float32))
        if isinstance(self.observation_space, spaces.Dict):
            shapes: dict[str, Any] = dict(self.obs_shape)  # type: ignore[arg-type]
            self.observations = {
                key: np.zeros((*steps, *shapes[key]), dtype=space.dtype)
                for key, space in self.observation_space.spaces.items()
            }
        else:
            self.observations = np.zeros((*steps, *self.obs_shape), dtype=self.observation_space.dtype)
        self.fillers = np.zeros(steps, dtype=np.bool_)
        self.previous: npt.NDArray[np.float32] | None = None  # (T, n_envs, P)
        self.reference: Tensor | None = None  # (T, n_envs, K)
        self.masks: npt.NDArray[np.float32] | None = None  # (T, n_envs, K)
        self.states: list[Tensor] = []  # (n_envs, S) at each cut
        self.epochs = 0
        self.pos, self.full, self.generator_ready = 0, False, False

    def add_step(
        self,
        observations: Any,
        action: npt.NDArray[Any],
        reward: npt.NDArray[np.float32],
        episode_start: npt.NDArray[np.bool_],
        value: Tensor,
        log_prob: Tensor,
        *,
        state: Tensor,
        previous: Tensor | None = None,
        filler: npt.NDArray[np.bool_] | None = None,
        masks: Tensor | None = None,
    ) -> None:
        """Add one step of all environments.

        Args:
            observations, action, reward, episode_start, value, log_prob: as for `RolloutBuffer.add`.
            state: (n_envs, S) that entered the step, before any reset.
            previous: (n_envs, P).
            filler: (n_envs,) True where the environment only reset, so that the step is ignored.
            masks: (n_envs, K) added to the logits.
        """
        at = self.pos
        if at in self._cut_at:
            self.states.append(state.clone())
        if isinstance(observations, dict):
            for key, values in observations.items():
                self.observations[key][at] = values.reshape(self.observations[key].shape[1:])
        else:
            self.observations[at] = observations.reshape(self.observations.shape[1:])
        self.actions[at] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[at] = reward
        self.episode_starts[at] = episode_start
        self.values[at] = value.cpu().numpy().reshape(-1)
        self.log_probs[at] = log_prob.cpu().numpy().reshape(-1)
        if previous is not None:
            if self.previous is None:
                self.previous = np.zeros((self.buffer_size, *previous.shape), dtype=np.float32)
            self.previous[at] = previous.cpu().numpy()
        if masks is not None:
            if self.masks is None:
                self.masks = np.zeros((self.buffer_size, *masks.shape), dtype=np.float32)
            self.masks[at] = masks.cpu().numpy()
        if filler is not None:
            self.fillers[at] = filler
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:  # type: ignore[override]
        """Yield one epoch: every step once, in minibatches of whole segments with about `batch_size` steps.

        Segments of one length are distributed evenly, so that no minibatch is much smaller than the others.
        """
        if not self.full:
            raise RuntimeError("the rollout is not complete")
        groups = self.groups()
        self.refresh_states()
        for number, (i, rows) in enumerate(self.draw_epoch(batch_size)):
            yield groups[i].take(torch.from_numpy(rows).to(self.device), first=not self.epochs and number == 0)
        self.epochs += 1

    def groups(self) -> list["Group"]:
        """Return the segments of the rollout as tensors, those of one length together."""
        if not self.generator_ready:
            self._groups = self._grouped()
            self.generator_ready = True
        return self._groups

    def refresh_states(self) -> None:
        """Compute the hidden states at the cuts with the current weights, where that is asked for."""
        if self.epochs and self.refresh is not None:
            states = self.refresh()
            for group in self._groups:
                group.state = states[group.pieces].flatten(0, 1)

    def draw_epoch(self, batch_size: int | None) -> list[tuple[int, npt.NDArray[np.int64]]]:
        """Return the minibatches of an epoch in their order: the number of a group and those of its segments."""
        batches = []
        for i, group in enumerate(self._groups):
            count, length = group.reset.shape
            wanted = count if batch_size is None else max(1, batch_size // length)
            order = np.random.permutation(count)  # noqa: NPY002, the generator SB3 seeds
            batches += [(i, rows) for rows in np.array_split(order, -(-count // wanted))]
        # Groups of different lengths are mixed, so that none always comes last.
        return [batches[i] for i in np.random.permutation(len(batches))]  # noqa: NPY002

    def _grouped(self) -> list["Group"]:
        """Group the segments by length."""
        lengths = np.diff(self.cuts)
        states = torch.stack(self.states)
        return [
            Group(self, np.flatnonzero(lengths == length).tolist(), int(length), states)
            for length in np.unique(lengths)
        ]

    def explained_variance(self) -> float:
        """Return the explained variance of the returns by the values, over valid steps."""
        counts = ~self.fillers
        return float(explained_variance(self.values[counts], self.returns[counts]))

    def whole(self) -> Segments:
        """Return the rollout as one segment per environment, from its first hidden state."""

        def transposed(values: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(values.swapaxes(0, 1)).to(self.device)

        first = self.states[0]
        previous = (
            first.new_zeros(*self.actions.shape[1::-1], 0) if self.previous is None else transposed(self.previous)
        )
        return Segments(
            observations=each(self.observations, transposed),
            previous=previous,
            state=first,
            reset=transposed(self.episode_starts) > 0.5,
        )

    def segmented(self, values: npt.NDArray[Any], pieces: list[int]) -> Tensor:
        """Cut values (T, n_envs, ...) into `pieces` of equal length: (n * n_envs, length, ...)."""
        rows = [values[self.cuts[i] : self.cuts[i + 1]].swapaxes(0, 1) for i in pieces]
        return torch.from_numpy(np.concatenate(rows)).to(self.device)


class Group:
    """All segments of one length as tensors (B, T, ...)."""

    def __init__(self, buffer: SegmentBuffer, pieces: list[int], length: int, states: Tensor) -> None:
        def cut(values: npt.NDArray[Any]) -> Tensor:
            return buffer.segmented(values, pieces)

        self.pieces = pieces
        self.observations: Observations = each(buffer.observations, cut)
        self.reset = cut(buffer.episode_starts) > 0.5
        self.state = states[pieces].flatten(0, 1)
        count = len(self.reset)
        self.previous = self.state.new_zeros(count, length, 0) if buffer.previous is None else cut(buffer.previous)
        # The likelihood does not take MultiBinary's integers.
        self.actions = cut(buffer.actions.astype(np.float32, copy=False)).to(self.state.dtype)
        names = ("values", "log_probs", "advantages", "returns")
        self.numbers = torch.stack([cut(getattr(buffer, name)) for name in names]).to(self.state.dtype)  # (4, B, T)
        self.counts = ~cut(buffer.fillers) if buffer.fillers.any() else None
        self.masks = None if buffer.masks is None else cut(buffer.masks).to(self.state.dtype)
        self.reference = None
        if buffer.reference is not None:
            bounds = [(buffer.cuts[i], buffer.cuts[i + 1]) for i in pieces]
            self.reference = torch.cat([buffer.reference[a:b].transpose(0, 1) for a, b in bounds])

    def take(self, rows: Tensor, *, first: bool) -> RolloutBufferSamples:
        """Return the minibatch of segments `rows`."""
        actions = self.actions[rows].flatten(0, 1)
        numbers = self.numbers[:, rows].flatten(1)
        kept = None
        if self.counts is not None:
            kept = self.counts[rows].flatten().nonzero().flatten()
            actions, numbers = actions[kept], numbers[:, kept]
        values, log_prob, advantages, returns = numbers
        segments = Segments(
            observations=each(self.observations, lambda x: x[rows]),
            previous=self.previous[rows],
            state=self.state[rows],
            reset=self.reset[rows],
            kept=kept,
            old_log_prob=log_prob if first else None,
            reference=None if self.reference is None else self.reference[rows],
            masks=None if self.masks is None else self.masks[rows],
        )
        return RolloutBufferSamples(segments, actions, values, log_prob, advantages, returns)  # type: ignore[arg-type]
