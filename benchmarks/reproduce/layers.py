"""The layers whose time and memory are measured: any cell, and the loops that the paper means by GRU and LSTM.

Shapes: B batch, T time, D width.
"""

import torch
from torch import nn

from minrl.bench.compared_layers import LAYERS, OurCell, forward_backward, inputs
from minrl.bench.measure import Call
from minrl.bench.results import Settings, Shape
from minrl.cells import CELLS

from .sequence_model import label

# By name, and what `minrl.bench` calls them: torch's cells called at every step.
LOOPS = {"gru_loop": "GRUCell loop", "lstm_loop": "LSTMCell loop"}
KNOWN_LAYERS = (*CELLS, *LOOPS)


def make(layer: str, width: int) -> nn.Module:
    """A layer of width D, called as layer(x, reset): (B, T, D), (B, T) -> (B, T, D)."""
    return LAYERS[LOOPS[layer]].make(width) if layer in LOOPS else OurCell(layer, width)


def layer_label(layer: str) -> str:
    """What tables and plots call a layer."""
    return LOOPS.get(layer) or label(layer)


def training_pass(layer: str, shape: Shape, settings: Settings) -> Call:
    """Forward and backward over sequences in which no episode ends."""
    module = make(layer, shape[2]).to(settings.device, settings.dtype)
    x, reset, direction = inputs(settings, shape)
    return forward_backward(module, x, torch.zeros_like(reset), direction)
