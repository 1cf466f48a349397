"""Output of an mLSTM before its last projection, in torch's operations (arXiv 2405.04517, section 2.3).

Shapes: … any leading axes, H heads of E features, D = H * E.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# The published code adds the first to the normaliser, the paper does not; the second is the layer norm's.
NORMALISER_EPSILON, NORM_EPSILON = 1e-6, 1e-5


def gated_norm(y: Tensor, unit: Tensor, mixed: Tensor, gate: Tensor, scale: Tensor, skip: Tensor) -> Tensor:
    """Compute silu(gate) * (norm(h) * (1 + scale) + skip * mixed), h = q C / max(|q n|, 1) as in equation 21.

    Args:
        y: (…, H, E + 1), q C | q n in units of exp(`unit`).
        unit: (…, H), takes no gradient.
        mixed, gate: (…, D).
        scale, skip: (D,).

    Returns:
        (…, D) in the precision of `gate`.
    """
    content, sums = y.split([y.shape[-1] - 1, 1], dim=-1)
    # 1 in units of exp(m) is exp(-m).
    normaliser = torch.maximum(sums.abs(), torch.exp(-unit.detach()).unsqueeze(-1)) + NORMALISER_EPSILON
    h = F.layer_norm(content * normaliser.reciprocal(), content.shape[-1:], eps=NORM_EPSILON).flatten(-2)
    return torch.addcmul((h * (1.0 + scale.to(h.dtype))).to(gate.dtype), skip, mixed) * F.silu(gate)
