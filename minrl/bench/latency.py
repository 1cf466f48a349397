"""Latency of one step of a stack within an episode, as for every action.

Shapes: B batch, D width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minrl.backbone import Backbone
from minrl.bench.machine import version
from minrl.bench.measure import Call
from minrl.bench.results import Measurement, Point, Settings, X, speedup
from minrl.cells import Cell
from minrl.scan import without_fused_kernels

WIDTH, DEPTH = 128, 3
BATCHES, QUICK = (1, 8, 64), (1, 8)
PLOT = "latency"


class Eager(Backbone):
    """Backbone that steps by torch operations."""

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Backbone.step` does, without compiled kernels."""
        with without_fused_kernels():
            return super().step(x, state)


def measure(settings: Settings) -> Iterator[Measurement]:
    """Measure every batch size with the first number of threads."""
    settings.first_threads()
    for batch in QUICK if settings.quick else BATCHES:
        for conv in (0, 4):
            yield from _batch(settings, batch, conv)


def _batch(settings: Settings, batch: int, conv: int) -> Iterator[Measurement]:
    fused, eager = (kind(WIDTH, DEPTH, conv=conv).to(settings.device).eval() for kind in (Backbone, Eager))
    eager.load_state_dict(fused.state_dict())
    x = torch.randn(batch, WIDTH, device=settings.device)
    peers = {"the same in torch operations": _step(eager, x)}
    if not conv:
        peers |= {
            f"nn.{kind.__name__} of {DEPTH} layers, no MLP": _recurrent(kind(WIDTH, WIDTH, DEPTH), x)
            for kind in (nn.GRU, nn.LSTM)
        }
    times = settings.times({"ours": _step(fused, x), **peers}, 30, budget=3.0)
    what = f"step of {DEPTH} {X} ({'convolution + ' if conv else ''}minGRU + MLP), D={WIDTH}"
    for name in peers:
        goal = ">= 10" if batch == 1 and name.startswith("the same") and not conv and not settings.on_gpu else ""
        yield speedup(
            settings, times, "ours", name,
            group="latency", what=what, shape=f"B={batch}", peer=f"{name}, {version('torch')}", goal=goal,
        )  # fmt: skip
    curves = {name: f"minGRU + MLP, {name.removeprefix('the same ')}" if "same" in name else name for name in peers}
    if not conv:
        for name, curve in {"ours": "minGRU + MLP", **curves}.items():
            yield Point(PLOT, curve, batch, times[name].minimum * 1e6)


def _step(model: Cell, x: Tensor) -> Call:
    """Return a call that makes one step and carries the state."""
    state = model.initial_state(x.shape[0])

    def step() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = model.step(x, state)

    return step


def _recurrent(model: nn.RNNBase, x: Tensor) -> Call:
    model = model.to(x.device).eval()
    memory = None
    sequence = x.unsqueeze(0)

    def step() -> None:
        nonlocal memory
        with torch.inference_mode():
            _, memory = model(sequence, memory)

    return step
