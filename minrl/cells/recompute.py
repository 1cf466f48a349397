"""Pieces of a sequence whose inner tensors are recomputed in the backward pass, so that one at a time is alive."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minrl.kernels.guard import under_transform


def recomputed(piece: Callable[..., tuple[Tensor, Tensor]], *arguments: Any) -> tuple[Tensor, Tensor]:
    """Call `piece`, which draws no random numbers, and save only its arguments for the backward pass.

    Under a torch.func transform, which allows no hooks on saved tensors, all its tensors are saved.
    """
    if under_transform():
        return piece(*arguments)
    outputs: tuple[Tensor, Tensor] = checkpoint(piece, *arguments, use_reentrant=False, preserve_rng_state=False)
    return outputs
