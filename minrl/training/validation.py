"""Held-out episodes: an agent's loss and the errors of its actions on data that it was not trained on.

Shapes: B rows, T time, N steps, A flat action width.
"""

from collections.abc import Iterator

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from minrl.agent import Agent, Batch
from minrl.data.batches import NumpyBatch, Windows, gather
from minrl.data.episode import Episodes
from minrl.data.spaces import AnySpace, leaves

LOSS, ACTION_ERROR = "validation/loss", "validation/action_error"
# A separate random stream for held-out episodes, so that the order of batches does not depend on them.
_STREAM = 1


def split_episodes(episodes: Episodes, share: float, seed: int) -> tuple[Episodes, Episodes | None]:
    """Split off a random `share` of the episodes (rounded, at least one) as held out; None for share 0.

    Both keep the order of the data set; the same seed holds out the same ones.

    Raises:
        ValueError: if no episode would be left to train on.
    """
    if share == 0:
        return episodes, None
    count = max(1, round(share * episodes.num_episodes))
    if count >= episodes.num_episodes:
        raise ValueError(
            f"validation={share:g} of the {episodes.num_episodes} episodes of {episodes.name} leaves none to train on"
        )
    order = np.random.default_rng([seed, _STREAM]).permutation(episodes.num_episodes)
    return episodes.select(np.sort(order[count:])), episodes.select(np.sort(order[:count]))


class Validation:
    """Single pass over held-out episodes, each step once, in the form that the agent trains on: whole trajectories from
    the zero state, or consecutive windows.

    Args:
        agent: that is validated; its sampler determines the form of the batches.
        episodes: held out.
        batch_size, length: of the training batches; batches here hold at most as many steps.
    """

    def __init__(self, agent: Agent, episodes: Episodes, *, batch_size: int, length: int) -> None:
        self.agent = agent
        sampler = agent.sampler(episodes, batch_size=1, length=length, seed=0)
        # An agent that trains on the best episodes only is validated on the best held-out ones.
        self.episodes: Episodes = getattr(sampler, "episodes", episodes)
        self.window = sampler.length if isinstance(sampler, Windows) else None
        self.budget = batch_size * (length if self.window is None else self.window)

    def measure(self) -> dict[str, float]:
        """Measure the mean training loss of a step, without dropout, and the mean error of each dimension of actions.

        The loss is in the agent's `loss_unit`. The error of a column of a Box is absolute, in the unit of the action;
        that of a discrete or binary action is the share of wrong ones.
        """
        device = next(self.agent.parameters()).device
        total, count, errors = 0.0, 0.0, torch.zeros(0)
        self.agent.eval()
        with torch.no_grad():
            for arrays in batches(self.episodes, self.budget, self.window):
                batch = Batch.from_numpy(arrays, device)
                loss = self.agent.loss(batch)
                predicted, taken = self.agent.predict(batch)[batch.mask], batch.actions[batch.mask]
                wrong = action_errors(self.agent.task.action_space, predicted, taken).double().sum(0).cpu()
                errors = wrong if count == 0 else errors + wrong
                total, count = total + loss.total.item(), count + loss.count.item()
        names = dimension_names(self.agent.task.action_space)
        means = dict(zip(names, (errors / count).tolist(), strict=True))
        return {LOSS: total / count} | {f"{ACTION_ERROR}_{name}": value for name, value in means.items()}


def batches(episodes: Episodes, budget: int, window: int | None = None) -> Iterator[NumpyBatch]:
    """Yield each step of the episodes once, in padded batches of at most `budget` steps where one row allows it.

    A row is an episode, or the next `window` steps of one; rows of similar length are batched together.
    """
    starts, firsts, counts = [], [], []
    for offset, length in zip(episodes.offsets[:-1].tolist(), episodes.lengths.tolist(), strict=True):
        size = length if window is None else window
        for begin in range(0, length, size):
            starts.append(offset + begin)
            firsts.append(begin)
            counts.append(min(size, length - begin))
    order = np.argsort(-np.array(counts), kind="stable")
    start, first, count = (np.array(values)[order] for values in (starts, firsts, counts))
    row = 0
    while row < len(order):
        longest = int(count[row])
        rows = slice(row, row + max(1, budget // longest))
        steps = np.arange(longest)
        mask = steps < count[rows, None]
        kept = np.where(mask, steps, 0)
        reset = np.zeros(mask.shape, dtype=np.bool_)
        reset[:, 0] = True
        yield gather(episodes, start[rows, None] + kept, first[rows, None] + kept, reset, mask)
        row = rows.stop


def dimension_names(space: AnySpace) -> list[str]:
    """Name the dimensions of an action: the column or choice, after the part's place in the space."""
    names = []
    for leaf in leaves(space):
        place = "".join(f"{key}." for key in leaf.keys)
        names += [f"{place}{i}" for i in range(_dimensions(leaf.space))]
    return names


def action_errors(space: AnySpace, predicted: Tensor, taken: Tensor) -> Tensor:
    """Compute the error of each dimension of each action: flattened (N, A), (N, A) -> (N, dimensions)."""
    errors = []
    for leaf in leaves(space):
        ours, theirs = predicted[:, leaf.columns], taken[:, leaf.columns]
        if isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete):
            sizes = [ours.shape[1]] if isinstance(leaf.space, spaces.Discrete) else leaf.space.nvec.reshape(-1).tolist()
            pairs = zip(ours.split(sizes, 1), theirs.split(sizes, 1), strict=True)
            errors.append(torch.stack([(p.argmax(1) != a.argmax(1)).double() for p, a in pairs], dim=1))
        elif isinstance(leaf.space, spaces.Box):
            errors.append((ours.double() - theirs.double()).abs())
        else:
            errors.append(((ours > 0.5) != (theirs > 0.5)).double())
    return torch.cat(errors, dim=1)


def _dimensions(space: AnySpace) -> int:
    if isinstance(space, spaces.Discrete):
        return 1
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.size)
    return int(spaces.flatdim(space))
