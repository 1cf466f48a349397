"""The segments of a rollout and the minibatches of an update as arrays for the compiled update.

Shapes: R rows of the rollout, segment after segment; Q segments, S state size, A action width, F inputs, K raw outputs,
G minibatches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minrl.online.rollout import SegmentBuffer


@dataclass
class Rollout:
    """Tensors of a rollout, with groups of equally long segments one after another."""

    inputs: Tensor  # (R, F) of the trunk
    resets: Tensor  # (R,) bool
    states: Tensor  # (Q, S)
    actions: Tensor  # (R, A)
    old: Tensor  # (4, R) values, log-likelihoods, advantages and returns
    valid: Tensor  # (R,) bool
    masks: Tensor | None  # (R, K) added to the raw outputs
    first_rows: list[int]  # of the groups
    first_states: list[int]
    lengths: list[int]


@torch.no_grad()
def rollout_tensors(buffer: SegmentBuffer, policy: Any, dtype: torch.dtype) -> Rollout:
    """Return the segments of a rollout, and the inputs of the policy's trunk at each step."""
    groups = buffer.groups()
    shapes = [tuple(group.reset.shape) for group in groups]
    rows = [count * length for count, length in shapes]

    def each(part: Callable[[Any], Tensor]) -> Tensor:
        return torch.cat([part(group) for group in groups])

    def observed(key: str | None) -> Tensor:
        return each(lambda group: (group.observations if key is None else group.observations[key]).flatten(0, 1))

    resets, observations = each(lambda group: group.reset.flatten()), groups[0].observations
    flat = {key: observed(key) for key in observations} if isinstance(observations, dict) else observed(None)
    inputs = policy._features(flat)[0]
    if policy.formulas == "backbone":
        previous = each(lambda group: group.previous.flatten(0, 1)).masked_fill(resets.unsqueeze(1), 0.0)
        inputs = torch.cat([inputs, resets.unsqueeze(1).to(inputs.dtype), previous], dim=1)
    valid = each(lambda group: (torch.ones_like(group.reset) if group.counts is None else group.counts).flatten())
    return Rollout(
        inputs=inputs.to(dtype).contiguous(),
        resets=resets,
        states=each(lambda group: group.state).to(dtype).contiguous(),
        actions=each(lambda group: group.actions.flatten(0, 1)).to(dtype).contiguous(),
        old=torch.cat([group.numbers.flatten(1) for group in groups], dim=1).to(dtype).contiguous(),
        valid=valid,
        masks=None if buffer.masks is None else each(lambda group: group.masks.flatten(0, 1)).to(dtype).contiguous(),
        first_rows=np.cumsum([0, *rows])[:-1].tolist(),
        first_states=np.cumsum([0, *(count for count, _ in shapes)])[:-1].tolist(),
        lengths=[length for _, length in shapes],
    )


@dataclass
class Minibatches:
    """Minibatches of several epochs."""

    table: Any  # (G, 6) int64: first row, steps, first state, first segment, segments, epoch
    order: Any  # segments of one minibatch after another, int64
    # The generator's state after each epoch, for an update that ends early.
    states: list[Any]

    @property
    def largest(self) -> tuple[int, int]:
        """Return the most rows and segments of a minibatch."""
        return int((self.table[:, 1] * self.table[:, 4]).max()), int(self.table[:, 4].max())


def draw_minibatches(
    buffer: SegmentBuffer, rollout: Rollout, batch_size: int | None, epochs: range, *, keep_states: bool
) -> Minibatches:
    """Draw the minibatches of some epochs as `SegmentBuffer.get` does."""
    table, order, states, at = [], [], [], 0
    for epoch in epochs:
        for i, segments in buffer.draw_epoch(batch_size):
            row = rollout.first_rows[i], rollout.lengths[i], rollout.first_states[i], at, len(segments), epoch
            table.append(row)
            order.append(segments)
            at += len(segments)
        if keep_states:
            states.append(np.random.get_state())  # noqa: NPY002, the generator SB3 seeds
    return Minibatches(np.array(table, np.int64), np.concatenate(order).astype(np.int64), states)
