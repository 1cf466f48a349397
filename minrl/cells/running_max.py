"""The running maximum that keeps exponential weights in range, over whole sequences in log-depth.

Shapes: B batch, T time, W width.
"""

import torch
from torch import Tensor

from minrl.kernels.slstm.reference import EMPTY

__all__ = ["EMPTY", "lagged", "running_max"]


@torch.no_grad()
def running_max(value: Tensor, log_decay: Tensor | None, first: Tensor, reset: Tensor | None = None) -> Tensor:
    """Compute m_t = max(log_decay_t + m_{t-1}, value_t), with m_{t-1} left out where `reset[:, t]`.

    A sum of exponential weights is kept in units of exp(m). Results do not depend on the unit, so no gradient goes
    through m. Passes reach over 1, 2, 4 … steps: log T operations.

    Args:
        value: (B, T, W) logarithms of the new weights.
        log_decay: (B, T, W), or of a shape that broadcasts to it; None is zero.
        first: (B, W) m before the first step.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        m (B, T, W).
    """
    opens = torch.zeros(value.shape[:2], dtype=torch.bool, device=value.device) if reset is None else reset
    reaches = ~opens.unsqueeze(-1)  # True where the steps up to here are of one episode
    decay = torch.zeros_like(value) if log_decay is None else log_decay.expand_as(value)
    largest = value.clone()
    largest[:, 0] = torch.where(reaches[:, 0], torch.maximum(value[:, 0], first + decay[:, 0]), value[:, 0])
    shift = 1
    while shift < value.shape[1]:
        carried = torch.maximum(largest[:, shift:], largest[:, :-shift] + decay[:, shift:])
        largest = torch.cat([largest[:, :shift], torch.where(reaches[:, shift:], carried, largest[:, shift:])], dim=1)
        decay = torch.cat([decay[:, :shift], decay[:, shift:] + decay[:, :-shift]], dim=1)
        reaches = torch.cat([reaches[:, :shift], reaches[:, shift:] & reaches[:, :-shift]], dim=1)
        shift *= 2
    return largest.detach()  # forward mode continues under no_grad


def lagged(x: Tensor, first: Tensor, reset: Tensor | None, empty: float = 0.0) -> Tensor:
    """Shift x (B, T, W) one step later, with `first` (B, W) at the first step and `empty` where `reset` (B, T)."""
    before = torch.cat([first.unsqueeze(1), x[:, :-1]], dim=1)
    return before if reset is None else before.masked_fill(reset.unsqueeze(-1), empty)
