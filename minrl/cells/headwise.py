"""Linear maps and norms of xLSTM that do not mix heads (arXiv 2405.04517, appendix A.4).

Shapes: D width, H heads of E = D / H features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        heads, _, size = self.weight.shape
        y = torch.einsum("...hd,hod->...ho", x.unflatten(-1, (heads, size)), self.weight)
        return y.flatten(-2)


def headwise_norm(x: Tensor, scale: Tensor) -> Tensor:
    """Normalise each head of (…, H, E) over its features and scale it by 1 + `scale` (D,): (…, D)."""
    return F.layer_norm(x, x.shape[-1:]).flatten(-2) * (1.0 + scale.to(x.dtype))
