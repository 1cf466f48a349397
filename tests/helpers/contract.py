"""The models under the contract of a cell, and the ways to run one that must agree.

Compiled kernels run in float32, as agents do; in float64 torch's operations run, as on a device without kernels.

Shapes: B batch, T time, D width, S state size.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from minrl.backbone import Backbone
from minrl.cells import CELLS, Cell
from minrl.scan import without_fused_kernels

WIDTH, BATCH, STEPS = 8, 3, 70  # more steps than one chunk, block or piece of any cell, and no multiple of any
CUTS = (1, 2, 13, 50, STEPS)

Run = Callable[[Cell, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def cell_with(name: str, **options: Any) -> Callable[[], Cell]:
    """Return a factory of the cell `name`."""
    return lambda: CELLS[name](WIDTH, **options)


def backbone_of(cell: str, **options: Any) -> Callable[[], Cell]:
    """Return a factory of two blocks of `cell`."""
    return lambda: Backbone(WIDTH, 2, cell, **options)


MODELS: dict[str, Callable[[], Cell]] = {
    **{name: cell_with(name) for name in CELLS},
    **{f"backbone-{name}": backbone_of(name) for name in CELLS},
    **{f"{name}-wide": cell_with(name, expand=2) for name in ("mingru", "minlstm", "gru", "lstm")},
    **{f"{name}-narrow": cell_with(name, expand=0.5) for name in ("mingru", "minlstm", "gru", "lstm")},
    **{f"{name}-tanh": cell_with(name, candidate="tanh") for name in ("mingru", "minlstm")},
    **{f"{name}-linear": cell_with(name, candidate="linear") for name in ("mingru", "minlstm")},
    **{f"{name}-signed": cell_with(name, signed=True) for name in ("mingru", "minlstm")},
    "mingru-hard": cell_with("mingru", gate="hard"),
    **{f"{name}-unbiased": cell_with(name, bias=False) for name in ("mingru", "minlstm", "gru", "lstm")},
    "transformer-short": cell_with("transformer", context=2, heads=1),
    "transformer-long": cell_with("transformer", context=STEPS + 5),
    "transformer-unplaced": cell_with("transformer", positions="none"),
    "mamba-small": cell_with("mamba", expand=1, state_width=3, conv_width=2, dt_rank=3),
    "lstm-peepholes": cell_with("lstm", peepholes=True),
    "lstm-peepholes-wide": cell_with("lstm", peepholes=True, expand=2, bias=False),
    "aaren-one-head": cell_with("aaren", heads=1),
    "mamba2-small": cell_with("mamba2", expand=1, state_width=3, head_width=2, conv_width=2),
    "mlstm-small": cell_with("mlstm", expand=1, heads=2, block_width=2, conv_width=2),
    "rwkv4-wide": cell_with("rwkv4", expand=2),
    "rwkv6-small": cell_with("rwkv6", head_width=4, mix_rank=2, decay_rank=3),
    "slstm-heads": cell_with("slstm", heads=2, conv_width=2),
    "lru-ring": cell_with("lru", state_width=11, r_min=0.9, r_max=0.999, max_phase=0.3),
    "s4d-inv": cell_with("s4d", init="inv", state_width=6),
    "s4d-real": cell_with("s4d", init="real", state_width=5),
    "s5-blocks": cell_with("s5", state_width=12, blocks=3, clip_eigs=False),
    "rglru-wide": cell_with("rglru", expand=1.5, blocks=3, conv_width=2),
    "rglru-bare": cell_with("rglru", conv_width=0),
    **{f"qrnn-{pooling}": cell_with("qrnn", expand=2, pooling=pooling) for pooling in ("f", "fo", "ifo")},
    "sru-plain": cell_with("sru", rescale=False, highway_bias=-1.0),
    "backbone-bare": backbone_of("mingru", conv=0, mlp=0),
    "backbone-pattern": lambda: Backbone(WIDTH, 3, pattern=("mingru", "transformer"), expand=1.5, context=20),
    "backbone-wide": backbone_of("minlstm", expand=1.5, conv=2),
}


def scan(model: Cell, x: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """Run all steps at once."""
    return model.scan(x, state, reset)


def step_by_step(model: Cell, x: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """Run one step after the other, zeroing the state at resets by hand."""
    outputs = []
    for t in range(x.shape[1]):
        state = torch.where(reset[:, t, None], torch.zeros_like(state), state)
        y, state = model.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def cut(model: Cell, x: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """Scan pieces of many lengths with the state carried over."""
    outputs, first = [], 0
    for end in CUTS:
        y, state = model.scan(x[:, first:end], state, reset[:, first:end])
        outputs.append(y)
        first = end
    return torch.cat(outputs, dim=1), state


def episodes_apart(model: Cell, x: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """Scan each episode of each row on its own, without resets."""
    rows, lasts = [], []
    for b in range(x.shape[0]):
        starts = reset[b].nonzero().flatten().tolist()
        bounds = sorted({0, *starts, x.shape[1]})
        last = None if 0 in starts else state[b : b + 1]
        pieces = []
        for first, end in pairwise(bounds):
            y, last = model.scan(x[b : b + 1, first:end], last if first == 0 else None)
            pieces.append(y)
        rows.append(torch.cat(pieces, dim=1))
        lasts.append(last)
    return torch.cat(rows), torch.cat(lasts)


WAYS: dict[str, Run] = {"scan": scan, "steps": step_by_step, "cuts": cut, "episodes": episodes_apart}


def build(name: str, dtype: torch.dtype = torch.float32) -> Cell:
    """Build the model `name` of MODELS, always with the same weights, without dropout."""
    torch.manual_seed(1)
    return MODELS[name]().to(dtype).eval()


def inputs(name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x (B, T, D), a state (B, S) left by some steps, and resets (B, T)."""
    x, state, reset = _drawn(name)
    return x.to(dtype, copy=True), state.to(dtype, copy=True), reset


@cache
def _drawn(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Draw them in float64, rounded to float32 so that only the arithmetic differs."""
    model = build(name, torch.float64)
    torch.manual_seed(2)
    x = torch.randn(BATCH, STEPS, WIDTH).double()
    reset = torch.rand(BATCH, STEPS) < 0.08
    reset[0, 0] = True
    reset[1, 30:33] = True
    with torch.no_grad(), without_fused_kernels():
        state = model.scan(torch.randn(BATCH, 9, WIDTH, dtype=torch.float64))[1]
    return x, state.float().double(), reset


def measure(name: str, way: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return outputs, final state and the gradients of a random loss of both, for `way` of running the model."""
    model = build(name, dtype)
    x, state, reset = inputs(name, dtype)
    x, state = x.requires_grad_(), state.requires_grad_()
    y, last = WAYS[way](model, x, state, reset)
    torch.manual_seed(3)
    of_y, of_last = torch.randn(y.shape, dtype=torch.float64), torch.randn(last.shape, dtype=torch.float64)
    loss = (y * of_y.to(dtype)).sum() + (last * of_last.to(dtype)).sum()
    parameters = dict(model.named_parameters())
    leaves = {"x": x, "state": state, **parameters}
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    named = {f"d {leaf}": g for leaf, g in zip(leaves, gradients, strict=True)}
    return {"y": y.detach(), "last": last.detach(), **named}


@cache
def expected(name: str) -> dict[str, Tensor]:
    """Return the reference results: step by step in float64 and torch's operations."""
    with without_fused_kernels():
        return measure(name, "steps", torch.float64)


def assert_near(actual: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Check that the largest difference is within `tolerance` of the largest value, or of 1 where all are smaller."""
    assert actual.shape == wanted.shape, what
    error = (actual.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1.0)
    assert error <= tolerance, f"{what}: error {error:.1e}"
