"""Layers under comparison, ours and peers, all called as layer(x, reset).

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minrl.bench.machine import failure, missing, version
from minrl.bench.measure import Call
from minrl.bench.results import Settings, Shape
from minrl.cells import CELLS
from minrl.kernels.scan.reference import log_space_mingru

# Share of steps that start an episode, in every measurement with resets.
RESETS = 0.01


class OurCell(nn.Module):
    """A cell of this package, with resets."""

    def __init__(self, cell: str, width: int) -> None:
        super().__init__()
        self.cell = CELLS[cell](width)

    def forward(self, x: Tensor, reset: Tensor) -> Tensor:
        """Scan with resets: (B, T, D), (B, T) -> (B, T, D)."""
        return self.cell.scan(x, None, reset)[0]


class WholeSequence(nn.Module):
    """torch's recurrent layer over the whole sequence, without resets."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, reset: Tensor) -> Tensor:
        """Run over the sequence, ignoring resets: (B, T, D) -> (B, T, D)."""
        output: Tensor = self.layer(x)[0]
        return output


class CellLoop(nn.Module):
    """torch's cell in a Python loop over time, state reset to zero at episode starts.

    Args:
        cell: of the width of its input.
        indexed: read x[:, t] at each step, as such loops mostly do, instead of unbinding x beforehand. The gradient
            then costs T times as much as necessary.
    """

    def __init__(self, cell: nn.GRUCell | nn.LSTMCell, *, indexed: bool = False) -> None:
        super().__init__()
        self.cell = cell
        self.indexed = indexed

    def forward(self, x: Tensor, reset: Tensor) -> Tensor:
        """Step through time: (B, T, D), (B, T) -> (B, T, D)."""
        kept = (~reset).to(x.dtype).unsqueeze(-1).unbind(1)
        steps = (x[:, t] for t in range(x.shape[1])) if self.indexed else x.unbind(1)
        h = c = x.new_zeros(x.shape[0], self.cell.hidden_size)
        outputs = []
        for step, keep in zip(steps, kept, strict=True):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(step, (h * keep, c * keep))
            else:
                h = self.cell(step, h * keep)
            outputs.append(h)
        return torch.stack(outputs, dim=1)


class LogSpaceMinGRU(nn.Module):
    """The published training form (arXiv 2410.01201, listing 6): a Linear and a scan of logarithms, no resets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, reset: Tensor) -> Tensor:
        """Scan in log space, ignoring resets: (B, T, D) -> (B, T, D)."""
        return log_space_mingru(self.gates(x))


class MambaPy(nn.Module):
    """mambapy's Mamba block with its defaults: inner width 2 D, 16 states per channel, no resets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from mambapy.mamba import MambaBlock, MambaConfig

        self.block = MambaBlock(MambaConfig(d_model=width, n_layers=1))

    def forward(self, x: Tensor, reset: Tensor) -> Tensor:
        """Run the block, ignoring resets: (B, T, D) -> (B, T, D)."""
        output: Tensor = self.block(x)
        return output


@dataclass(frozen=True)
class Layer:
    """Factory of a layer of width D, with its label in tables and its package."""

    make: Callable[[int], nn.Module]
    label: str
    module: str = "torch"

    def peer(self, on_gpu: bool = False) -> str:
        """Return its label in a table, with the version of its package."""
        label = f"cuDNN {self.label}" if on_gpu and self.label.startswith(("nn.GRU,", "nn.LSTM,")) else self.label
        return f"{label}, {version(self.module.split('.')[0])}"


LAYERS = {
    "minGRU": Layer(lambda width: OurCell("mingru", width), "minGRU", "minrl"),
    "minLSTM": Layer(lambda width: OurCell("minlstm", width), "minLSTM", "minrl"),
    "GRU": Layer(lambda width: WholeSequence(nn.GRU(width, width, batch_first=True)), "nn.GRU, no resets"),
    "LSTM": Layer(lambda width: WholeSequence(nn.LSTM(width, width, batch_first=True)), "nn.LSTM, no resets"),
    "GRUCell loop": Layer(lambda width: CellLoop(nn.GRUCell(width, width)), "nn.GRUCell in a loop, with resets"),
    "GRUCell loop, x[:, t]": Layer(
        lambda width: CellLoop(nn.GRUCell(width, width), indexed=True), "nn.GRUCell in a loop over x[:, t], with resets"
    ),
    "LSTMCell loop": Layer(lambda width: CellLoop(nn.LSTMCell(width, width)), "nn.LSTMCell in a loop, with resets"),
    "log space": Layer(LogSpaceMinGRU, "minGRU as published (log space), no resets"),
    "mambapy": Layer(MambaPy, "mambapy's MambaBlock, no resets", "mambapy.mamba"),
}


def make_layer(name: str, settings: Settings, width: int) -> nn.Module:
    """Build a layer on the device and in the precision of the settings."""
    return LAYERS[name].make(width).to(settings.device, settings.dtype)


def unusable(name: str, settings: Settings) -> str | None:
    """Return why a layer cannot be measured here; None if it can."""
    width = 16
    return missing(LAYERS[name].module) or failure(
        lambda: forward_backward(make_layer(name, settings, width), *inputs(settings, (2, 8, width)))()
    )


def inputs(settings: Settings, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x (B, T, D), which requires a gradient, reset (B, T), and the output gradient (B, T, D)."""
    batch, steps, width = shape
    options: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype}
    x = torch.randn(batch, steps, width, **options).requires_grad_()
    reset = torch.rand(batch, steps, device=settings.device) < RESETS
    return x, reset, torch.randn(batch, steps, width, **options)


def forward_backward(layer: nn.Module, x: Tensor, reset: Tensor, direction: Tensor) -> Call:
    """Return a call that computes outputs and the gradients of input and weights."""
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x, reset), wanted, direction)
