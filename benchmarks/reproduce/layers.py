"""Layers whose time and memory are measured: any cell, and torch's GRU and LSTM cells in loops as in the paper.

Shapes: B batch, T time, D width.
"""

import torch
from torch import nn

from minrl.bench.compared_layers import LAYERS, OurCell, forward_backward, inputs
from minrl.bench.measure import Call
from minrl.bench.results import Settings, Shape
from minrl.cells import CELLS

from .sequence_model import label

# torch's cells called at every step, with their names in `minrl.bench`.
LOOPS = {"gru_loop": "GRUCell loop", "lstm_loop": "LSTMCell loop"}
KNOWN_LAYERS = (*CELLS, *LOOPS)


def make(layer: str, width: int) -> nn.Module:
    """Build a layer of width D, called as layer(x, reset): (B, T, D), (B, T) -> (B, T, D)."""
    return LAYERS[LOOPS[layer]].make(width) if layer in LOOPS else OurCell(layer, width)


def layer_label(layer: str) -> str:
    """Return the label of a layer in tables and plots."""
    return LOOPS.get(layer) or label(layer)


def training_pass(layer: str, shape: Shape, settings: Settings) -> Call:
    """Return a forward and backward pass over sequences in which no episode ends."""
    module = make(layer, shape[2]).to(settings.device, settings.dtype)
    x, reset, direction = inputs(settings, shape)
    return forward_backward(module, x, torch.zeros_like(reset), direction)
