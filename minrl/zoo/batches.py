"""Observations and actions of one environment or a batch, as flat rows and back.

Shapes: B environments, O flat observation width, A flat action width.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecTransposeImage
from torch import Tensor

from minrl.data.spaces import AnySpace, flatten, leaves, nested, unflatten
from minrl.data.task import Task


def to_rows(task: Task, observation: Any) -> tuple[Tensor, bool]:
    """Flatten one observation or a batch to (B, O); the second value is True for a batch.

    Raises:
        ValueError: if it does not fit the space; images may have their channels last or first.
    """
    space = task.observation_space
    batch, batched = _batch(space, observation)
    return torch.from_numpy(flatten(space, batch, np.float64 if task.wide_observations else np.float32)), batched


def from_rows(task: Task, rows: Tensor, *, batched: bool) -> Any:
    """Convert flat actions (B, A) to those of the space, stacked; without `batched` the only one of them."""
    actions = unflatten(task.action_space, rows.numpy())
    return actions if batched else _first(task.action_space, actions)


def _batch(space: AnySpace, observation: Any) -> tuple[Any, bool]:
    """Return a batch of observations, and True if they were one already; images get the axes of the space."""
    batched: set[bool] = set()
    parts: dict[tuple[str | int, ...], Any] = {}
    for leaf in leaves(space):
        try:
            value = observation
            for key in leaf.keys:
                value = value[key]
            array = np.asarray(value)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"the observation does not fit {space}: it has no part {leaf.keys}") from error
        shape = leaf.space.shape or ()
        if array.shape not in (shape, (len(array) if array.ndim else 0, *shape)) and array.ndim in (3, 4):
            array = VecTransposeImage.transpose_image(array)
        if array.shape == shape:
            array, one = array[None], False
        elif array.ndim == len(shape) + 1 and array.shape[1:] == shape:
            one = True
        else:
            raise ValueError(f"observations of shape {np.shape(value)} do not fit {leaf.space}")
        batched.add(one)
        parts[leaf.keys] = array
    if len(batched) > 1:
        raise ValueError("one part of the observation is a batch, another is not")
    return nested(space, (), parts), batched.pop()


def _first(space: AnySpace, values: Any) -> Any:
    """Return the first of a batch of actions."""
    if isinstance(space, spaces.Dict):
        return {key: _first(part, values[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_first(part, values[i]) for i, part in enumerate(space.spaces))
    return values[0]
