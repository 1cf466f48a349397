"""Conversion of a policy's actions to its environment's: rounding, clipping, start of choices.

A policy samples real numbers for a Box and counts choices from 0. The sampled value is stored and trained on; the
environment gets a value of its space, by the same rules while acting, in `predict`, in evaluations and in ONNX.

Shapes: B environments, A flat action width.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from minrl.data.spaces import AnySpace, whole_bounds

Array = npt.NDArray[Any]


def to_environment(space: AnySpace, actions: Array, *, squashed: bool) -> Array:
    """Convert actions (B, *shape) of a distribution to values of `space`.

    Args:
        space: the action space.
        actions: real numbers for a Box, choices counted from 0.
        squashed: of a Box, True if they lie in [-1, 1] and stand for the space's whole range.
    """
    if isinstance(space, spaces.Discrete):
        return actions + space.start if space.start else actions
    if isinstance(space, spaces.MultiDiscrete):
        return actions + space.start if space.start.any() else actions
    if isinstance(space, spaces.MultiBinary):
        return actions.astype(space.dtype)
    if not isinstance(space, spaces.Box):
        return actions
    low, high, is_whole = space.low, space.high, space.dtype.kind in "iu"
    if is_whole:
        # In float64, as high - low of bytes would overflow.
        (low, high), actions = whole_bounds(space), actions.astype(np.float64)
    if squashed:
        actions = low + (0.5 * (actions + 1.0) * (high - low))  # rounding may pass a bound by one unit
    # In the space's dtype: a Box of float16 does not contain float32.
    # These two take a fifth of the time of `np.clip` for a few numbers.
    kept: Array = np.minimum(np.maximum(np.rint(actions) if is_whole else actions, low), high)
    return kept.astype(space.dtype, copy=False)


def bounded(space: AnySpace, actions: Tensor, *, squashed: bool) -> Tensor:
    """Convert actions (B, *shape) or (B, A) as `to_environment`, keeping type and shape, and choices counted from 0.

    Can be traced.
    """
    if not isinstance(space, spaces.Box):
        return actions
    device, is_whole = actions.device, np.issubdtype(space.dtype, np.integer)
    bounds = whole_bounds(space) if is_whole else (space.low, space.high)
    # Flat actions of a Box with several axes meet flat bounds.
    low, high = (torch.as_tensor(bound, device=device).reshape(actions.shape[1:]) for bound in bounds)
    if not is_whole:
        return (low + 0.5 * (actions + 1.0) * (high - low) if squashed else actions).clamp(low, high)
    values = actions.double()
    if squashed:
        values = low + 0.5 * (values + 1.0) * (high - low)
    return values.round().clamp(low, high).to(actions.dtype)


def flat_actions(space: AnySpace, actions: Tensor) -> Tensor:
    """Arrange actions (B, *shape) as columns (B, A): one-hot where they are choices, counted from 0."""
    if isinstance(space, spaces.Discrete):
        return F.one_hot(actions.reshape(-1).long(), int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        choices = actions.reshape(actions.shape[0], -1).long().unbind(1)
        return torch.cat([F.one_hot(c, int(n)) for c, n in zip(choices, space.nvec.reshape(-1), strict=True)], dim=1)
    return actions.reshape(actions.shape[0], -1)
