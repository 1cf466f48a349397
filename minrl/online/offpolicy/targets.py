"""Targets of a critic over whole rows, through the linear recurrence.

Shapes: B rows, T time.
"""

import torch
from torch import Tensor

from minrl.scan import linear_scan


@torch.no_grad()
def n_step_targets(rewards: Tensor, values: Tensor, last: Tensor, gamma: float, steps: int = 1) -> Tensor:
    """Compute G_t = r_t + gamma r_{t+1} + ... + gamma^m V_{t+m}, with m = `steps` or what is left of the episode.

    The sums to the end of each episode are one scan backwards through time; a sum of m rewards is the difference of two
    of them. In float64, as that difference loses digits.

    Args:
        rewards: (B, T) of the step that follows each observation.
        values: (B, T) of the observations themselves; 0 after the end of an episode that terminated.
        last: (B, T) bool, True at an observation that none of its episode follows in the row. There G_t = V_t.
        gamma: discount factor.
        steps: most rewards in a target, 1 or more.

    Returns:
        (B, T) in the precision of `rewards`.
    """
    count = rewards.shape[1]
    # The batch takes the place of the width, so that one recurrence runs over time.
    drive, ends = rewards.double().masked_fill(last, 0.0).flip(1), last.flip(1)
    decay = torch.full_like(drive, gamma).masked_fill(ends, 0.0)
    sums = linear_scan(decay.t().unsqueeze(0), drive.t().unsqueeze(0))[0][0].t().flip(1)
    place = torch.arange(count, device=rewards.device)
    end = torch.where(last, place, count - 1).flip(1).cummin(dim=1).values.flip(1)
    reached = torch.minimum(place + steps, end)
    discount = gamma ** (reached - place).double()
    targets = sums + discount * (values.double() - sums).gather(1, reached)
    return targets.to(rewards.dtype)
