"""Losses that more than one model has.

Shapes: ... any leading dimensions.
"""

import torch
from torch import Tensor


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """|tau - 1(u < 0)| u^2 of u = target - prediction (arXiv 2110.06169, equation 4): (...) -> (...)."""
    return torch.where(error < 0, 1 - expectile, expectile) * error.square()
