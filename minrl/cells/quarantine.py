"""Keeps NaN and infinity within their episode where a product with a mask of zeros would spread them.

Shapes: B batch, T time.
"""

from functools import reduce

import torch
from torch import Tensor


def not_finite(first: int, *parts: Tensor) -> Tensor:
    """Where any of `parts` (B, …) holds NaN or infinity, over all but their `first` dimensions."""
    return reduce(torch.logical_or, (~part.isfinite().flatten(first).all(dim=first) for part in parts))


def reached(faulty: Tensor, memory: Tensor, reset: Tensor | None) -> Tensor:
    """Which steps (B, T) a faulty step (B, T) or a faulty entering memory (B,) of their episode reaches."""
    count = faulty.cumsum(dim=1) + memory.unsqueeze(1)
    if reset is None:
        return count > 0
    before = torch.where(reset, count - faulty.long(), 0).cummax(dim=1).values
    return count > before


def filled(x: Tensor, where: Tensor, value: float = 0.0) -> Tensor:
    """`x` (B, T, …) or (B, …) with `value` in the steps or rows `where`."""
    return x.masked_fill(where.view(where.shape + (1,) * (x.dim() - where.dim())), value)
