"""The recurrence of a matrix per head as a loop over its equations.

Shapes: B batch, T time, H heads, K features of a key, V of a value.
"""

import torch
from torch import Tensor


def matrix_scan(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    reads_before: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute S_t = diag(decay_t) S_{t-1} + k_t v_t^T and y_t = q_t S_t as a loop over time.

    Where `reset[:, t]`, S_{t-1} is zero, whatever it was, and no gradient crosses.

    Args:
        query, key: (B, T, H, K), or one for all heads (B, T, 1, K).
        value: (B, T, H, V).
        decay: (B, T, H, K), or one for all features (B, T, H, 1).
        state: (B, H * K * V) the initial S; None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.
        reads_before: y_t = q_t S_{t-1} instead.

    Returns:
        y (B, T, H, V) and the last S (B, H * K * V).
    """
    batch, _, heads, width = value.shape
    shape = batch, heads, key.shape[-1], width
    memory = value.new_zeros(shape) if state is None else state.view(shape)
    outputs = []
    for t in range(value.shape[1]):
        if reset is not None:
            memory = torch.where(reset[:, t, None, None, None], torch.zeros_like(memory), memory)
        found = memory
        memory = decay[:, t].unsqueeze(-1) * memory + key[:, t].unsqueeze(-1) * value[:, t].unsqueeze(-2)
        outputs.append((query[:, t].unsqueeze(-2) @ (found if reads_before else memory)).squeeze(-2))
    return torch.stack(outputs, dim=1), memory.flatten(1)
