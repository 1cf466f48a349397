"""Cells paired with independent implementations of the same weights, and helpers for such pairs.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minrl.cells import Cell

WIDTH = 24


@dataclass(frozen=True)
class Pair:
    """Cell, and a peer as a function (B, T, D) -> (B, T, D) from the zero state with the same weights."""

    cell: Cell
    peer: nn.Module
    run: Callable[[Tensor], Tensor]


def convolution_by_taps(weights: dict[str, Any]) -> dict[str, Any]:
    """Return weights whose convolution is laid out as (taps, channels)."""
    weights = dict(weights)
    weights["conv.weight"] = weights.pop("conv1d.weight").squeeze(1).T
    weights["conv.bias"] = weights.pop("conv1d.bias")
    return weights


def randomise(module: nn.Module, *names: str) -> None:
    """Draw the named weights from a standard normal distribution."""
    for name in names:
        nn.init.normal_(module.get_parameter(name))


def lively(model: Any) -> Any:
    """Perturb all parameters, so that none has a special value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model
