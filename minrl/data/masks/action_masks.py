"""Action masks: flags for the choices of an action that may be taken, and their effect on logits.

A mask has one flag for each choice, component after component, as in sb3-contrib's MaskablePPO
(https://sb3-contrib.readthedocs.io/en/master/modules/ppo_mask.html): n for Discrete(n), the sum of `nvec` for
MultiDiscrete, and for each bit of MultiBinary two, that it may be 0 and that it may be 1. A tree of spaces has those
of its parts in order; a Box has none.

Masked choices get the logit -1e8 (Huang and Ontañón 2020, "A Closer Look at Invalid Action Masking in Policy Gradient
Algorithms", arXiv 2006.14171, section 3): probability, gradient and share of the entropy are exactly 0.

Shapes: B environments, M flags, K raw outputs of a policy, … any leading axes.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from minrl.data.spaces import AnySpace, leaves, unflatten
from minrl.system.messages import one_line

# Reading data needs no torch, whose import takes 120 MB.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

BoolArray = npt.NDArray[np.bool_]
# Finite, as probability times logit must be 0 and not NaN; float32 absorbs every logit beside it.
MASKED = -1e8


def choices(space: AnySpace) -> list[int]:
    """Return how many choices each discrete component of an action has, in the order of a mask."""
    found: list[int] = []
    for leaf in leaves(space):
        if isinstance(leaf.space, spaces.Discrete):
            found.append(int(leaf.space.n))
        elif isinstance(leaf.space, spaces.MultiDiscrete):
            found += leaf.space.nvec.reshape(-1).tolist()
        elif isinstance(leaf.space, spaces.MultiBinary):
            found += [2] * leaf.raw_width
    return found


def mask_size(space: AnySpace) -> int:
    """Return M, the flags of a mask."""
    return sum(choices(space))


def checked_masks(space: AnySpace, masks: Any, count: int, where: str) -> BoolArray:
    """Return the masks of B = `count` actions as (B, M).

    Raises:
        ValueError: for masks of another shape, or a row that allows no choice of a component; `where` names them.
    """
    try:
        flags = np.asarray(masks).astype(np.bool_, casting="unsafe")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} must be flags, got {one_line(masks)[:80]}") from error
    size = mask_size(space)
    if not size:
        raise ValueError(f"{where}: the action space {one_line(space)} has no choices to mask")
    if flags.size != count * size or (flags.ndim > 1 and len(flags) != count):
        shape = flags.shape if count == 1 else flags.shape[1:] if flags.ndim > 1 else flags.shape
        raise ValueError(
            f"{where} of shape {flags.shape} for {count} action{'s' if count > 1 else ''}: {one_line(space)} has "
            f"{size} flags, one for each choice, got {shape}"
        )
    flags = flags.reshape(count, size)
    parts = choices(space)
    if len(parts) == 1:
        allowed = flags.any(axis=1, keepdims=True)
    else:
        allowed = np.logical_or.reduceat(flags, np.cumsum([0, *parts[:-1]]), axis=1)
    if not allowed.all():
        row, component = (int(found[0]) for found in np.nonzero(~allowed))
        part = "" if len(parts) == 1 else f" of component {component} of the action"
        raise ValueError(f"{where}: row {row} allows no choice{part}; at least one must be allowed")
    return flags


def forbidden(space: AnySpace, actions: npt.NDArray[Any], masks: BoolArray) -> BoolArray:
    """Return True for each recorded action (n, A), flattened, that its mask (n, M) does not allow: (n,)."""
    found, first = np.zeros(len(actions), dtype=np.bool_), 0
    for leaf in leaves(space):
        size = mask_size(leaf.space)
        flags, taken = masks[:, first : first + size], actions[:, leaf.columns] > 0.5
        first += size
        if isinstance(leaf.space, spaces.MultiBinary):
            taken = np.stack([~taken, taken], axis=-1).reshape(flags.shape)
        if size:
            found |= (taken & ~flags).any(axis=1)
    return found


def draw_allowed(space: AnySpace, mask: BoolArray, random: np.random.Generator) -> Any:
    """Draw an action of a space whose choices are uniform over those that a mask (M,) allows."""
    rows, at = [], 0
    for leaf in leaves(space):
        hot = []
        for count in choices(leaf.space):
            hot.append(np.zeros(count))
            hot[-1][random.choice(np.flatnonzero(mask[at : at + count]))] = 1.0
            at += count
        if isinstance(leaf.space, spaces.MultiBinary):
            hot = [part[1:] for part in hot]
        rows += hot or [np.reshape(leaf.space.sample(), -1)]
    return _first(unflatten(space, np.concatenate(rows)[None]))


def _first(values: Any) -> Any:
    """Take the first of a batch, structure kept."""
    if isinstance(values, dict):
        return {key: _first(part) for key, part in values.items()}
    return tuple(map(_first, values)) if isinstance(values, tuple) else values[0]


def additive(space: AnySpace, masks: "Tensor") -> "Tensor":
    """Return what masks (…, M) add to logits, (…, K): 0 where the choice is free; none for the columns of a Box.

    A flag of MultiBinary has the logit of 1: it becomes very large or very small where only one value is allowed.
    """
    import torch

    rows = [part for part in additive_parts(space, masks) if part is not None]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)


def additive_parts(space: AnySpace, masks: "Tensor") -> "list[Tensor | None]":
    """Return `additive` for each part of a space, None for a part without choices."""
    import torch

    rows: list[Tensor | None] = []
    first = 0
    for leaf in leaves(space):
        size = mask_size(leaf.space)
        flags = masks[..., first : first + size]
        first += size
        if isinstance(leaf.space, spaces.MultiBinary):
            no, yes = flags.unflatten(-1, (leaf.raw_width, 2)).unbind(-1)
            rows.append(MASKED * (no.to(torch.float32) - yes.to(torch.float32)))
        else:
            rows.append(torch.where(flags, 0.0, MASKED) if size else None)
    return rows


def added_to_logits(
    space: AnySpace, masks: Any, count: int, device: "torch.device | str" = "cpu", where: str = "action_masks"
) -> "Tensor | None":
    """Return what masks of B = `count` actions add to logits, (B, K); None for no masks; raise as `checked_masks`."""
    if masks is None:
        return None
    import torch

    return additive(space, torch.from_numpy(checked_masks(space, masks, count, where))).to(device)
