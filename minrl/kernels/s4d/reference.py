"""The recurrence of S4D as a loop over its equations (arXiv 2206.11893, sections 3 and 4).

Shapes: B batch, T time, D channels, M states of a channel; a complex number is its real | imaginary part.
"""

import torch
from torch import Tensor


def s4d_scan(
    u: Tensor, decay: Tensor, factor: Tensor, c: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute h_t = decay * h_{t-1} + factor * u_t and y_t = sum of c * h_t over a channel, as a loop over time.

    The last product is of parts: real with real, imaginary with imaginary. Where `reset[:, t]`, h_{t-1} is zero,
    whatever it was, and no gradient crosses.

    Args:
        u: (B, T, D).
        decay, factor, c: (D, M, 2).
        state: (B, D * M * 2) the initial h; None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        y (B, T, D) and the last h (B, D * M * 2).
    """
    h = u.new_zeros(u.shape[0], *decay.shape) if state is None else state.view(-1, *decay.shape)
    real, imaginary = decay.unbind(-1)
    outputs = []
    for t in range(u.shape[1]):
        if reset is not None:
            h = torch.where(reset[:, t, None, None, None], torch.zeros_like(h), h)
        x, y = h.unbind(-1)
        turned = torch.stack([real * x - imaginary * y, real * y + imaginary * x], dim=-1)
        h = turned + factor * u[:, t, :, None, None]
        outputs.append((h * c).sum((-1, -2)))
    return torch.stack(outputs, dim=1), h.flatten(1)
