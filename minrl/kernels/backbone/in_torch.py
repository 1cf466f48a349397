"""The scan of a stack of blocks in torch's operations, from the same arguments as the compiled one takes.

It runs where the compiled scan's gradients are differentiated again, with the same dropout.

Shapes: B batch, T time, D width, S state size, N = B * T rows.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.kernels.backbone.convolution import causal_convolution
from minrl.kernels.backbone.dropout import Noise, drop
from minrl.kernels.backbone.layout import BlockLayout, BlockWeights, Noises, StackLayout
from minrl.kernels.differentiable import gated_scan
from minrl.kernels.kinds import CANDIDATES, maps
from minrl.kernels.scan.gates import Candidate

_MAPS = {maps(name, hard): (cast("Candidate", name), hard) for name in CANDIDATES for hard in (False, True)}


# Dropout masks of a block's two branches, (B, T, D); None without dropout.
Masks = tuple[Tensor | None, Tensor | None]


def masks(noises: list[Noises], x: Tensor) -> list[Masks]:
    """Draw the masks of each block's dropout for x (B, T, D)."""
    return [(_mask(of_cell, x), _mask(of_mlp, x)) for of_cell, of_mlp in noises]


def scan(
    stack: "StackLayout", masks: list[Masks], reset: Tensor, x: Tensor, state: Tensor | None, *weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute x (B, T, D), state (B, S), reset (B, T) -> y (B, T, D), last state (B, S)."""
    state = x.new_zeros(x.shape[0], stack.state_size) if state is None else state
    lasts, column = [], 0
    for form, block, mask in zip(stack.forms, stack.blocks(weights), masks, strict=True):
        size = form.inner + max(form.taps - 1, 0) * x.shape[2]
        x, last = _block(form, block, mask, reset, x, state[:, column : column + size])
        lasts.append(last)
        column += size
    norm, bias = weights[-2:]
    return F.layer_norm(x, x.shape[2:], norm, bias, float(stack.epsilon)), torch.cat(lasts, dim=1)


def _block(
    form: BlockLayout, w: BlockWeights, masks: Masks, reset: Tensor, x: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run as `minrl.backbone.Block.scan` does."""
    y = F.layer_norm(x, x.shape[2:], w.norm, w.norm_bias, float(form.epsilon))
    memory, recent = state[:, : form.inner], state[:, form.inner :]
    if w.taps is not None:
        assert w.taps_bias is not None
        y, recent = causal_convolution(y, w.taps, w.taps_bias, recent, reset)
    gates = F.linear(y, w.gates, w.gates_bias)
    candidate, hard = _MAPS[form.candidate]
    options: dict[str, Any] = {"parts": form.parts, "candidate": candidate, "signed": bool(form.flip), "hard": hard}
    h, last = gated_scan(gates, memory, reset, **options)
    x = x + _dropped(masks[0], h if w.down is None else F.linear(h, w.down))
    if w.up is not None:
        assert w.back is not None
        y = F.layer_norm(x, x.shape[2:], w.mlp_norm, w.mlp_norm_bias, float(form.mlp_epsilon))
        y = F.linear(F.gelu(F.linear(y, w.up, w.up_bias)), w.back, w.back_bias)
        x = x + _dropped(masks[1], y)
    return x, torch.cat([last, recent], dim=1)


def _dropped(mask: Tensor | None, branch: Tensor) -> Tensor:
    return branch if mask is None else branch * mask


def _mask(noise: Noise | None, x: Tensor) -> Tensor | None:
    if noise is None:
        return None
    ones = torch.ones(x.shape[:2].numel(), x.shape[2], dtype=x.dtype)
    return drop(noise, ones).view(x.shape)
