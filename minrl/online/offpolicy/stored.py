"""Checks of a replay buffer's content from a file, before it takes the place of the buffer's own.

Shapes: N environments, C observations of a stream.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from minrl.system.messages import one_line

Array = npt.NDArray[Any]


def checked_counters(saved: Mapping[str, Any], n_envs: int, capacity: int) -> tuple[Array, Array, Array]:
    """Return next places, sizes and ages (N,) of the streams.

    Raises:
        ValueError: if there are no such streams: a stream fills from place 0 on, and goes round once it holds C.
    """
    heads, sizes, ages = (_array(saved, name) for name in ("heads", "sizes", "ages"))
    if heads.shape != (n_envs,) or sizes.shape != (n_envs,) or ages.shape != (n_envs,):
        raise ValueError(f"the replay buffer is of {heads.size} environments; this model has {n_envs}")
    fits = heads.dtype == sizes.dtype == np.int64 and ages.dtype == np.int32
    fits = fits and bool(((heads >= 0) & (heads < capacity) & (sizes >= 0) & (sizes <= capacity) & (ages >= 0)).all())
    if not fits or not ((sizes == capacity) | (heads == sizes)).all():
        raise ValueError(
            f"the replay buffer holds no streams with room for {capacity} steps of each of {n_envs} environments, "
            "which this model has"
        )
    return heads.copy(), sizes.copy(), ages.copy()


def checked_arrays(
    saved: Any, own: Mapping[str, Array], used: Mapping[str, int], values_of: Mapping[str, spaces.Space[Any]]
) -> dict[str, Array]:
    """Return the arrays (N, used, ...) to copy into a buffer's `own`.

    Args:
        saved: from the file.
        own: arrays of the buffer, whose dtypes and trailing shapes they have.
        used: places of a stream that hold something, by the array's name.
        values_of: spaces of arrays of whole numbers.

    Raises:
        ValueError: for other names, shapes or dtypes, and values that no environment gives: infinite, or no choice.
    """
    if not isinstance(saved, dict) or saved.keys() != own.keys():
        names = one_line(sorted(map(str, saved))) if isinstance(saved, dict) else "no arrays"
        raise ValueError(f"the replay buffer holds {names}; this model has {one_line(sorted(own))}")
    found = {}
    for name, mine in own.items():
        values = _array(saved, name)
        fits = values.shape == (len(mine), used[name], *mine.shape[2:]) and values.dtype == mine.dtype
        if not fits and (used[name] or values.size):  # what holds nothing may not know its size yet
            raise ValueError(f"the replay buffer holds other {name}: {values.dtype} of {values.shape}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"the replay buffer holds {name} that are not finite")
        if name in values_of and not _are_choices(values, values_of[name]):
            raise ValueError(f"the replay buffer holds {name} outside of {values_of[name]}")
        found[name] = values[:, : used[name]] if values.size else mine[:, :0]
    return found


def _array(saved: Mapping[str, Any], name: str) -> Array:
    value = saved.get(name) if isinstance(saved, dict) else None
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        raise ValueError(f"the replay buffer holds no array of {name}")
    array: Array = value.numpy()
    return array


def _are_choices(values: Array, space: spaces.Space[Any]) -> bool:
    """Return True if whole numbers are in a space; any are in one that is no set of choices."""
    if isinstance(space, spaces.Discrete):
        return bool(((values >= space.start) & (values < space.start + space.n)).all())
    if isinstance(space, spaces.MultiDiscrete):
        return bool(((values >= space.start) & (values < space.start + space.nvec)).all())
    if isinstance(space, spaces.MultiBinary):
        return bool(((values == 0) | (values == 1)).all())
    return True
