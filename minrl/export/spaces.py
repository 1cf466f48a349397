"""Spaces of an exported model: decoding of actions in torch, and a description of both spaces for the metadata.

Shapes: B environments, A flat action width, P columns of one part.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from minrl.data.spaces import AnySpace, Leaf, leaves, whole_bounds
from minrl.system.messages import one_line


class ActionDecoder(nn.Module):
    """Decoder of flattened actions (B, A) to samples of the space: `minrl.data.spaces.unflatten` in torch.

    A Box is clipped to its bounds, an integer one rounded; choices count from the space's own start. Each part has the
    space's own shape and type.

    Raises:
        ValueError: for a part that no tensor can hold (Text).
    """

    def __init__(self, space: AnySpace) -> None:
        super().__init__()
        self.leaves = leaves(space)
        for leaf in self.leaves:
            if isinstance(leaf.space, spaces.Text):
                raise ValueError(f"the action space {one_line(space)} holds text, which ONNX does not support")
        for number, leaf in enumerate(self.leaves):
            if isinstance(leaf.space, spaces.Box):
                low, high = _in_precision(leaf.space)
                self.register_buffer(f"low{number}", torch.from_numpy(low))
                self.register_buffer(f"high{number}", torch.from_numpy(high))
            elif isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete):
                self.register_buffer(f"start{number}", torch.from_numpy(np.asarray(leaf.space.start, np.int64)))

    @property
    def names(self) -> list[str]:
        """Names of the parts: "action" for a space without parts, else "action/KEY/KEY"."""
        return [leaf_name("action", leaf) for leaf in self.leaves]

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Decode actions: (B, A) -> (B, *shape) for each part."""
        return tuple(
            self._decoded(number, leaf.space, rows[:, leaf.columns]) for number, leaf in enumerate(self.leaves)
        )

    def _decoded(self, number: int, space: AnySpace, rows: Tensor) -> Tensor:
        kind = torch.from_numpy(np.zeros(0, space.dtype)).dtype
        if isinstance(space, spaces.Box):
            low, high = self.get_buffer(f"low{number}"), self.get_buffer(f"high{number}")
            rows = torch.round(rows) if np.issubdtype(space.dtype, np.integer) else rows
            rows = rows.to(low.dtype).reshape(-1, *space.shape)
            return torch.minimum(torch.maximum(rows, low), high).to(kind)
        if isinstance(space, spaces.Discrete):
            return (rows.argmax(1) + self.get_buffer(f"start{number}")).to(kind)
        if isinstance(space, spaces.MultiDiscrete):
            parts = rows.split([int(n) for n in space.nvec.reshape(-1)], dim=1)
            chosen = torch.stack([part.argmax(1) for part in parts], dim=1)
            return (chosen.reshape(-1, *space.shape) + self.get_buffer(f"start{number}")).to(kind)
        return (rows > 0.5).reshape(-1, *(space.shape or ())).to(kind)


def leaf_name(top: str, leaf: Leaf) -> str:
    """Return `top`, or "action/hand/0" for a part of a space."""
    return "/".join([top, *map(str, leaf.keys)])


def described(space: AnySpace, top: str) -> list[dict[str, Any]]:
    """Describe the parts of a space in plain values for JSON, in the order of their columns.

    Each has name, keys (its path in the tree), kind, flat columns [first, end), shape, type and bounds; `None` means
    no bound. Choices are one-hot in their columns, those of a MultiDiscrete side by side.
    """
    return [_described(leaf, top) for leaf in leaves(space)]


def _described(leaf: Leaf, top: str) -> dict[str, Any]:
    space, columns = leaf.space, [leaf.columns.start, leaf.columns.stop]
    values: dict[str, Any] = {"name": leaf_name(top, leaf), "keys": list(leaf.keys)}
    values |= {"kind": type(space).__name__, "columns": columns}
    if space.shape is not None:
        values |= {"shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Box):
        values |= {"low": _bounds(space.low), "high": _bounds(space.high)}
    elif isinstance(space, spaces.Discrete):
        values |= {"n": int(space.n), "start": int(space.start)}
    elif isinstance(space, spaces.MultiDiscrete):
        values |= {"n": space.nvec.tolist(), "start": space.start.tolist()}
    return values


def _bounds(values: Any) -> Any:
    """Return bounds in the space's shape; a single number if all are equal, None for no bound."""
    plain = [float(value) if np.isfinite(value) else None for value in values.reshape(-1)]
    if len(set(plain)) == 1:
        return plain[0]
    return np.array(plain, dtype=object).reshape(values.shape).tolist()


def _in_precision(space: spaces.Box) -> tuple[Any, Any]:
    """Return the bounds in float32 for a float32 space, else in float64."""
    if np.issubdtype(space.dtype, np.integer):
        return whole_bounds(space)
    kind = np.float32 if space.dtype == np.float32 else np.float64
    return np.array(space.low, kind), np.array(space.high, kind)
