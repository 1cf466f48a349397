"""Linear maps and norms of xLSTM that do not mix heads (arXiv 2405.04517, appendix A.4).

Shapes: D width, H heads of E = D / H features.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.kernels.recurrence import takes

# Features of a product of several heads: of 4 and 64 it takes twice and half as long again.
_GROUP = 16


class HeadwiseLinear(nn.Module):
    """Linear map without bias whose matrix is block-diagonal, one block (E, E) per head.

    Args:
        width: D, of input and output.
        heads: H; it must divide `width`.
        std: of the normal distribution that the weights (H, E, E) start from.
    """

    def __init__(self, width: int, heads: int, std: float) -> None:
        super().__init__()
        size = width // heads
        self.weight = nn.Parameter(torch.empty(heads, size, size).normal_(std=std))  # head | output | input

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each head of x (…, D) by its matrix: (…, D)."""
        weight: Tensor = self.weight
        if x.dim() > 2 and takes(x):
            weight = _grouped(weight)
        heads, _, size = weight.shape
        y = torch.einsum("...hd,hod->...ho", x.unflatten(-1, (heads, size)), weight)
        return y.flatten(-2)


def composed(weight: Tensor, module: HeadwiseLinear) -> Tensor:
    """Return the weight (M, D) of one layer for a `HeadwiseLinear` and a layer of weight (M, D) after it."""
    heads, size, _ = module.weight.shape
    return torch.einsum("mho,hod->mhd", weight.unflatten(-1, (heads, size)), module.weight).flatten(-2)


def _grouped(weight: Tensor) -> Tensor:
    """Put several matrices (H, E, E) on the diagonal of one: small products take longer than their zeros."""
    heads, size, _ = weight.shape
    count = math.gcd(heads, max(1, _GROUP // size))
    if count == 1:
        return weight
    apart = torch.eye(count, dtype=weight.dtype).view(count, 1, count, 1)
    blocks = weight.view(-1, count, size, 1, size) * apart
    return blocks.reshape(-1, count * size, count * size)


def headwise_norm(x: Tensor, scale: Tensor) -> Tensor:
    """Normalise each head of (…, H, E) over its features and scale it by 1 + `scale` (D,): (…, D)."""
    return F.layer_norm(x, x.shape[-1:]).flatten(-2) * (1.0 + scale.to(x.dtype))
