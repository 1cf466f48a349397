"""A whole layer, matmul included: forward and backward to input and weights, against peers.

Shapes: B batch, T time, D width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minrl.bench.compared_layers import LAYERS, OurCell, forward_backward, inputs, make_layer, unusable
from minrl.bench.machine import version
from minrl.bench.measure import Times
from minrl.bench.results import SHARE, Measurement, Ratio, Settings, Shape, Skipped, shape_text, speedup
from minrl.cells.mingru import MinGRU
from minrl.kernels import matmul

SHAPES: tuple[Shape, ...] = ((64, 512, 128), (16, 4096, 64))
GPU_SHAPES: tuple[Shape, ...] = ((64, 512, 128), (64, 4096, 128))
QUICK: tuple[Shape, ...] = ((4, 64, 32),)
# mambapy keeps many tensors of 32 elements per element of x: small enough for a small machine.
MAMBA: Shape = (8, 512, 128)
MATMUL, HALF = "Linear alone", "minGRU (bfloat16 matmul)"
GOALS: dict[tuple[str, Shape], str] = {
    ("GRU", (64, 512, 128)): ">= 6",
    ("GRU", (16, 4096, 64)): ">= 14",
    ("GRUCell loop, x[:, t]", (64, 512, 128)): ">= 10",
    ("GRUCell loop, x[:, t]", (16, 4096, 64)): ">= 90",
    ("log space", (64, 512, 128)): ">= 12",
    ("log space", (16, 4096, 64)): ">= 12",
}
GPU_GOALS: dict[tuple[str, Shape], str] = {("GRU", (64, 512, 128)): ">= 10", ("GRU", (64, 4096, 128)): ">= 30"}


class MatmulOnly(nn.Module):
    """Matmul of one of our layers alone."""

    def __init__(self, layer: OurCell) -> None:
        super().__init__()
        assert isinstance(layer.cell, MinGRU)
        self.gates = layer.cell.gates

    def forward(self, x: Tensor, reset: Tensor) -> Tensor:
        """Multiply: (B, T, D) -> (B, T, 2D)."""
        return matmul.layer(self.gates, x)


class InBfloat16(nn.Module):
    """Layer whose matmul runs in bfloat16; its recurrence stays in float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, reset: Tensor) -> Tensor:
        """Run under autocast: (B, T, D) -> (B, T, D)."""
        with torch.autocast(x.device.type, torch.bfloat16):
            y: Tensor = self.layer(x, reset)
        return y.to(x.dtype)


def measure(settings: Settings) -> Iterator[Measurement]:
    """Measure every shape and number of threads; mambapy has its own shape."""
    peers = ["GRU", "LSTM", "GRUCell loop", "GRUCell loop, x[:, t]", "log space"]
    reason = unusable("mambapy", settings)
    if reason:
        yield Skipped("layer", LAYERS["mambapy"].label, reason)
    for threads in settings.thread_counts():
        for shape in QUICK if settings.quick else GPU_SHAPES if settings.on_gpu else SHAPES:
            yield from _shape(settings, threads, shape, peers)
        if not reason:
            yield from _mamba(settings)


def _shape(settings: Settings, threads: int, shape: Shape, peers: list[str]) -> Iterator[Measurement]:
    x, reset, direction = inputs(settings, shape)
    layers = {name: make_layer(name, settings, shape[2]) for name in ("minGRU", "minLSTM", *peers)}
    calls = {name: forward_backward(layer, x, reset, direction) for name, layer in layers.items()}
    ours = layers["minGRU"]
    assert isinstance(ours, OurCell)
    if not settings.on_gpu:  # on a GPU all of them run in bfloat16
        calls[HALF] = forward_backward(InBfloat16(ours), x, reset, direction)
    calls[MATMUL] = forward_backward(MatmulOnly(ours), x, reset, torch.cat([direction, direction], dim=2))
    times = settings.times(calls, 15, budget=4.0)
    goals = {} if settings.quick else GPU_GOALS if settings.on_gpu else GOALS
    for name in peers:
        yield _faster(settings, times, "minGRU", name, shape, goals.get((name, shape), ""))
    yield _faster(settings, times, "minLSTM", "LSTM", shape)
    if not settings.on_gpu:
        yield _faster(settings, times, HALF, "GRU", shape)
        yield _share(settings, times, threads, shape)


def _mamba(settings: Settings) -> Iterator[Measurement]:
    shape = QUICK[0] if settings.quick else MAMBA
    x, reset, direction = inputs(settings, shape)
    layers = {name: make_layer(name, settings, shape[2]) for name in ("minGRU", "mambapy")}
    times = settings.times({k: forward_backward(v, x, reset, direction) for k, v in layers.items()}, 15)
    yield _faster(settings, times, "minGRU", "mambapy", shape)


def _faster(settings: Settings, times: dict[str, Times], ours: str, peer: str, shape: Shape, goal: str = "") -> Ratio:
    return speedup(
        settings,
        times,
        ours,
        peer,
        group="layer",
        what=f"{ours} layer, forward + backward",
        shape=shape_text(shape, settings.dtype),
        peer=LAYERS[peer].peer(settings.on_gpu),
        goal=goal,
    )


def _share(settings: Settings, times: dict[str, Times], threads: int, shape: Shape) -> Ratio:
    """Compute the share of the layer's time beyond its matmul."""
    layer, product = times["minGRU"], times[MATMUL]
    return Ratio(
        group="layer",
        what="share of the minGRU layer beyond its matmul",
        shape=shape_text(shape, settings.dtype),
        threads=threads,
        value=1 - product.minimum / layer.minimum,
        unit=SHARE,
        peer=f"the same Linear alone, forward + backward, {version('torch')}",
        median=1 - product.median / layer.median,
        goal="" if settings.quick else "<= 15 %",
        clock=settings.clock().name,
        times={"ours": layer, "peer": product},
    )
