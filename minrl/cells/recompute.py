"""Pieces of a sequence whose inner tensors are computed again in the backward pass, so that one at a time is alive."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minrl.kernels.guard import under_transform


def recomputed(piece: Callable[..., tuple[Tensor, Tensor]], *arguments: Any) -> tuple[Tensor, Tensor]:
    """Call `piece`, which draws no random numbers, and keep its arguments alone for the backward pass.

    Under a torch.func transform, which takes no hooks on saved tensors, all that it computes is kept.
    """
    if under_transform():
        return piece(*arguments)
    outputs: tuple[Tensor, Tensor] = checkpoint(piece, *arguments, use_reentrant=False, preserve_rng_state=False)
    return outputs
