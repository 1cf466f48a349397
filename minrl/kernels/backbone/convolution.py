"""The short causal convolution in torch operations."""

import torch
from torch import Tensor


def causal_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Convolve x (B, T, D) with `weight` (K, D), oldest tap first, from the last inputs `state` (B, (K - 1) * D).

    Returns:
        y (B, T, D) and the last K - 1 inputs of the running episode, (B, (K - 1) * D).
    """
    past, steps = weight.shape[0] - 1, x.shape[1]
    window = torch.cat([state.unflatten(1, (past, x.shape[2])), x.to(state.dtype)], dim=1)
    y = torch.addcmul(bias, window[:, past:], weight[past])
    # A tap reaches over `lag` steps; it counts if none of them opened an episode.
    closed = None if reset is None else _steps_since_reset(reset, past)
    for lag in range(1, past + 1):
        tap = window[:, past - lag : past - lag + steps]
        if closed is not None:
            tap = tap.masked_fill((closed < lag).unsqueeze(-1), 0.0)
        y = torch.addcmul(y, tap, weight[past - lag])
    last = window[:, steps:]
    if closed is not None:
        # The input `lag` steps before the next step is kept if no later step opened an episode.
        lags = torch.arange(past, 0, -1, device=x.device)
        last = last.masked_fill((closed[:, -1:] < lags - 1).unsqueeze(-1), 0.0)
    return y.to(x.dtype), last.flatten(1)


def _steps_since_reset(reset: Tensor, limit: int) -> Tensor:
    """Count the steps since each step's episode opened, at most `limit`: (B, T) bool -> (B, T) int.

    Before the first reset the episode is taken to be older than `limit`.
    """
    steps = torch.full_like(reset, limit, dtype=torch.int64)
    for ago in reversed(range(min(limit, reset.shape[1]))):
        steps[:, ago:] = torch.where(reset[:, : reset.shape[1] - ago], ago, steps[:, ago:])
    return steps
