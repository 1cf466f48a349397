"""The recurrences as loops over their equations: the reference of all other kernels, slow on purpose.

Shapes: B batch, T time, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_scan(
    decay: Tensor, drive: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute h_t = decay_t * h_{t-1} + drive_t as a loop over time; h_{t-1} is zero where `reset[:, t]`."""
    h = torch.zeros_like(drive[:, 0]) if state is None else state
    outputs = []
    for t in range(drive.shape[1]):
        if reset is not None:
            h = torch.where(reset[:, t, None], torch.zeros_like(h), h)
        h = decay[:, t] * h + drive[:, t]
        outputs.append(h)
    return torch.stack(outputs, dim=1), h


def log_space_scan(log_decay: Tensor, log_drive: Tensor) -> Tensor:
    """Compute the published training form (arXiv 2410.01201, listing 4; Heinsen 2023): (B, T, D), (B, T, D) -> (B, T,
    D).

    For a zero initial state and positive drives only. It loses digits as T grows and cannot reset exactly; only tests
    and benchmarks use it.
    """
    log_products = torch.cumsum(log_decay, dim=1)
    return torch.exp(log_products + torch.logcumsumexp(log_drive - log_products, dim=1))


def log_space_mingru(gates: Tensor) -> Tensor:
    """Compute the minGRU in the published log-space form (appendix B.2.1): (B, T, 2D) update gate | candidate -> (B,
    T, D)."""
    gate, candidate = gates.chunk(2, dim=-1)
    log_g = torch.where(candidate >= 0, (F.relu(candidate) + 0.5).log(), -F.softplus(-candidate))
    return log_space_scan(-F.softplus(gate), -F.softplus(-gate) + log_g)
