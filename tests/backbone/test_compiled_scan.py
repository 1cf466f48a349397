"""Results of a backbone's compiled scan against torch: to 1e-5 in float32 and 1e-10 in float64.

Gradients are among them.

Shapes: B batch, T time, D width, S state size.
"""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from block_scans import assert_as_torch, assert_as_torch_in_double, backbone, everything, inputs, is_fused, plain
from torch import nn
from torch.autograd import gradcheck

pytest.importorskip("numba")


@pytest.fixture
def threads() -> Iterator[None]:
    """Run a test with three torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"conv": 0},
    {"mlp": 0},
    {"conv": 2, "mlp": 2.5, "expand": 2},
    {"expand": 0.5, "mlp": 0},
    {"signed": True, "mlp": 1},
    {"bias": False, "conv": 0, "mlp": 0},
]
every_cell = pytest.mark.parametrize("cell", ["mingru", "minlstm"])


@every_cell
@pytest.mark.parametrize(
    "options",
    [*OPTIONS, pytest.param({"gate": "hard", "mlp": 1}, marks=pytest.mark.slow)],  # kernels of their own
)
@pytest.mark.parametrize("width", [8, 24, 70])
def test_any_option(cell: str, options: dict[str, Any], width: int) -> None:
    model = backbone(width, cell, **options)
    assert_as_torch(model, *inputs(model))


@pytest.mark.slow  # compiled for float64, 15 CPU seconds for the first of them
@every_cell
@pytest.mark.parametrize("options", OPTIONS)
def test_any_option_in_float64(cell: str, options: dict[str, Any]) -> None:
    model = backbone(24, cell, **options)
    assert_as_torch_in_double(model, *inputs(model))


@pytest.mark.parametrize(
    ("cell", "candidate"), [("mingru", "tanh"), pytest.param("minlstm", "linear", marks=pytest.mark.slow)]
)
def test_other_candidates(cell: str, candidate: str) -> None:
    model = backbone(9, cell, candidate=candidate)
    assert_as_torch(model, *inputs(model))


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("steps", [1, 2, 3, 63, 64, 65, 130])
def test_any_number_of_rows_and_steps(batch: int, steps: int) -> None:
    """Scan from fewer steps than the convolution has taps to more than two pieces."""
    model = backbone(10, mlp=1)
    assert_as_torch(model, *inputs(model, batch, steps))


@pytest.mark.slow
def test_one_column() -> None:
    """Compare in float64: the norm of a single feature has no correct digit in float32."""
    narrow = backbone(1, mlp=2)
    assert_as_torch_in_double(narrow, *inputs(narrow))


def test_more_than_a_block_of_lanes() -> None:
    wide = backbone(300, depth=1, mlp=1)
    assert_as_torch(wide, *inputs(wide, 2, 20))


@pytest.mark.parametrize("steps", [5, 69, 150])
def test_more_taps_than_steps_in_a_piece(steps: int) -> None:
    model = backbone(4, conv=70, mlp=0)
    assert_as_torch(model, *inputs(model, 2, steps))


@pytest.mark.parametrize("conv", [0, 4])
def test_without_state_or_resets_and_with_resets_everywhere(conv: int) -> None:
    model = backbone(8, conv=conv, mlp=1)
    x, state, reset = inputs(model)
    for arguments in ((x, None, None), (x, state, None), (x, None, reset), (x, state, torch.ones_like(reset))):
        assert_as_torch(model, *arguments)
    everywhere = everything(model.float(), x.float(), state.float(), torch.ones_like(reset))
    assert torch.all(everywhere[3] == 0)  # no gradient to an unused state


@pytest.mark.parametrize("options", [{"mlp": 4}, {"conv": 0, "expand": 2, "mlp": 0}])
def test_threads_share_the_work(threads: None, options: dict[str, Any]) -> None:
    """Give sequences and pieces of them to different threads, and split an MLP into more than one tile."""
    model = backbone(128, depth=1, **options)
    for shape in ((4, 300), (1, 1300)):
        assert_as_torch(model, *inputs(model, *shape))
    assert any(thread.name.startswith("minrl-scan") for thread in threading.enumerate())


@pytest.mark.slow
def test_gradients_against_differences() -> None:
    model = backbone(3, mlp=1)
    x, state, reset = inputs(model, 2, 5)
    reset[1, 3] = True
    leaves = [x.requires_grad_(), state.requires_grad_()]
    assert is_fused(model, x, state, reset)
    assert gradcheck(lambda x, state: model.scan(x, state, reset), leaves)


@pytest.mark.parametrize("cell", ["mingru", "minlstm"])
def test_nan_ends_at_a_reset(cell: str) -> None:
    """Check that NaN in a state or a step reaches neither later episodes nor their gradients."""
    model = backbone(6, cell, mlp=1).float()
    x, state, _ = inputs(model, 1, 12)
    reset = torch.zeros(1, 12, dtype=torch.bool)
    reset[0, [3, 8]] = True
    x[0, 5], state[0] = float("nan"), float("nan")
    x.requires_grad_()
    y, last = model.scan(x, state, reset)
    finite = torch.tensor([False] * 3 + [True] * 2 + [False] * 3 + [True] * 4)
    assert torch.equal(y[0].isfinite().all(1), finite)
    assert torch.equal(y[0].isfinite().any(1), finite)
    assert last.isfinite().all()
    (dx,) = torch.autograd.grad(y[0, 8:].sum() + last.sum(), x)
    assert torch.all(dx[0, 8:] != 0)
    assert dx[0, 8:].isfinite().all()
    y, last = plain(model).scan(x, state, reset)
    (wanted,) = torch.autograd.grad(y[0, 8:].sum() + last.sum(), x)
    assert torch.allclose(dx, wanted, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_gelu_and_its_slope_to_a_millionth() -> None:
    from numba import njit

    from minrl.kernels.backbone.norm_gelu import gelu_gradients

    x = torch.linspace(-12, 12, 100_001)
    y, slope, total = torch.empty_like(x), torch.ones_like(x), torch.zeros_like(x)
    njit(lambda *rows: gelu_gradients(*rows, rows[0].size))(*(row.numpy() for row in (x, y, slope, total)))
    exact = x.double().requires_grad_()
    wanted = nn.functional.gelu(exact)
    assert (y - wanted).abs().max() <= 1e-6
    assert (slope - torch.autograd.grad(wanted.sum(), exact)[0]).abs().max() <= 1e-6
    assert torch.equal(slope, total)
