"""The selective scan as a loop over its equations (arXiv 2312.00752, algorithm 2).

Shapes: B batch, T time, H channels, N states of a channel.
"""

import torch
from torch import Tensor


def selective_scan(
    dt: Tensor,
    drive: Tensor,
    b: Tensor,
    c: Tensor,
    a: Tensor,
    state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = exp(dt_t A) h_{t-1} + drive_t b_t and y_t = c_t h_t in each channel as a loop over time.

    Where `reset[:, t]`, h_{t-1} is zero, whatever it was, and no gradient crosses.

    Args:
        dt, drive: (B, T, H) step size, and step size times input.
        b, c: (B, T, N).
        a: (H, N) A, at most 0.
        state: (B, H * N) the initial h; None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        y (B, T, H) and the last h (B, H * N).
    """
    h = dt.new_zeros(dt.shape[0], *a.shape) if state is None else state.view(-1, *a.shape)
    outputs = []
    for t in range(dt.shape[1]):
        if reset is not None:
            h = torch.where(reset[:, t, None, None], torch.zeros_like(h), h)
        h = torch.exp(dt[:, t].unsqueeze(-1) * a) * h + drive[:, t].unsqueeze(-1) * b[:, t].unsqueeze(-2)
        outputs.append((h * c[:, t].unsqueeze(-2)).sum(-1))
    return torch.stack(outputs, dim=1), h.flatten(1)
