"""Losses shared by several models.

Shapes: ... any leading dimensions.
"""

import torch
from torch import Tensor


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Compute |tau - 1(u < 0)| u^2 of u = target - prediction, (...) -> (...).

    It is the loss L_2^tau of IQL's value function (arXiv 2110.06169, equation 5).
    """
    return torch.where(error < 0, 1 - expectile, expectile) * error.square()
