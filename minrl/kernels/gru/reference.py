"""The GRU's recurrence as a loop over its equations: the compiled kernel's reference and fallback.

Shapes: B batch, T time, H width.
"""

import torch
from torch import Tensor


def gru_scan(
    gates: Tensor, weight: Tensor, bias: Tensor | None = None, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute h_t = (1 - z_t) * n_t + z_t * h_{t-1} (Cho et al., arXiv 1406.1078) as torch.nn.GRU does.

    The reset gate r and the update gate z are sigmoids of the input's plus the state's part, the candidate is
    n_t = tanh(x_n + r_t * (W_n h_{t-1} + b_n)). Where `reset[:, t]`, h_{t-1} is zero, whatever it was, and no gradient
    crosses.

    Args:
        gates: (B, T, 3H) the input's part, W_ih x + b_ih: reset gate | update gate | candidate.
        weight: (3H, H) W_hh, rows in the same order.
        bias: (3H,) b_hh; None is zero.
        state: (B, H) the initial h; None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        h (B, T, H) and the last h (B, H).
    """
    h = gates.new_zeros(gates.shape[0], weight.shape[1]) if state is None else state
    outputs = []
    with torch.autocast(gates.device.type, enabled=False):
        for t in range(gates.shape[1]):
            if reset is not None:
                h = torch.where(reset[:, t, None], torch.zeros_like(h), h)
            pre = h @ weight.T if bias is None else h @ weight.T + bias
            (x_r, x_z, x_n), (h_r, h_z, h_n) = gates[:, t].chunk(3, dim=-1), pre.chunk(3, dim=-1)
            update = torch.sigmoid(x_z + h_z)
            candidate = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
            h = candidate + update * (h - candidate)
            outputs.append(h)
    return torch.stack(outputs, dim=1), h
