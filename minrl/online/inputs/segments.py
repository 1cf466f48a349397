"""Segments of a rollout, the input of a recurrent policy in training.

Shapes: B segments, T time, S state size, P width of the previous action and reward, K raw outputs, N = B * T rows that
count.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

Observations = Tensor | dict[str, Tensor]


class Segments(NamedTuple):
    """Segments of observations that a recurrent policy evaluates."""

    observations: Observations  # (B, T, ...)
    previous: Tensor  # (B, T, P) the previous action and reward, if the policy reads them
    state: Tensor  # (B, S) hidden state before the first step
    reset: Tensor  # (B, T) bool, True where an observation opens an episode
    kept: Tensor | None = None  # (N,) int64 flat indices of the valid steps; None for all
    old_log_prob: Tensor | None = None  # (N,) in the first minibatch after a rollout only
    reference: Tensor | None = None  # (B, T, K) parameters of the pretrained policy's distributions
    masks: Tensor | None = None  # (B, T, K) added to the logits, see `minrl.data.masks.action_masks`

    def of_valid(self, values: Tensor) -> Tensor:
        """Return the valid steps (N, ...) of values (B, T, ...)."""
        flat = values.flatten(0, 1)
        return flat if self.kept is None else flat[self.kept]


def segment_cuts(steps: int, segment_length: int) -> list[int]:
    """Return the steps at which a rollout is cut into segments of about equal length, from 0 to its end."""
    pieces = -(-steps // segment_length)
    return [steps * i // pieces for i in range(pieces + 1)]


def check_segments(steps: int, segment_length: int | None, batch_size: int | None) -> None:
    """Raise ValueError for segments without steps, or longer than a minibatch, which holds whole ones.

    Args:
        steps: of the rollout in each environment.
        segment_length: most steps of a segment; None for as many as fit a minibatch.
        batch_size: steps of a minibatch; None or 0 for the whole rollout.
    """
    if segment_length is None:
        return
    if segment_length < 1:
        raise ValueError(f"segment_length must be at least 1 step, got {segment_length}")
    if not batch_size:
        return
    longest = int(np.diff(segment_cuts(steps, segment_length)).max())
    if longest > batch_size:
        raise ValueError(
            f"segments of {longest} steps do not fit a minibatch of {batch_size}, which is made of whole segments: "
            f"set segment_length to {batch_size} or less, or batch_size to {longest} or more"
        )


def each(observations: Any, change: Callable[[Any], Any]) -> Any:
    """Return an observation, or each part of a Dict observation, changed."""
    if isinstance(observations, dict):
        return {key: change(x) for key, x in observations.items()}
    return change(observations)


def between(rollout: Segments, first: int, end: int) -> Segments:
    """Return the steps from `first` to before `end`."""
    return rollout._replace(
        observations=each(rollout.observations, lambda x: x[:, first:end]),
        previous=rollout.previous[:, first:end],
        reset=rollout.reset[:, first:end],
    )
