"""Resets of every cell: values on one side of a reset have no effect on the other side.

The references are runs in which the other side holds finite values or is left out.

Shapes: B batch, T time, D width, S state size.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from contract import WIDTH, assert_near, build
from torch import Tensor

from minrl.cells import CELLS, Cell
from minrl.kernels.scan import chunked, reference
from minrl.scan import linear_scan, mingru_scan, minlstm_scan, without_fused_kernels

BATCH, STEPS, OPENS = 3, 43, 21  # beyond one chunk, block or piece of each cell
MODELS = [*CELLS, *(f"backbone-{name}" for name in CELLS), "backbone-pattern", "lstm-peepholes", "s4d-real"]
VALUES = torch.tensor([torch.nan, torch.inf, -torch.inf])  # one in each row
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}

every_model = pytest.mark.parametrize("name", MODELS)
both_paths = pytest.mark.parametrize("path", ["compiled", "torch"])
# Blocks around a cell's operations of torch are the same as around its kernels.
every_model_on_both_paths = pytest.mark.parametrize(
    ("name", "path"), [*((name, "compiled") for name in MODELS), *((name, "torch") for name in (*CELLS, *MODELS[-3:]))]
)
# Kernels are compiled for each precision, so that they run in that of agents.
PRECISION = {"compiled": torch.float32, "torch": torch.float64}


@pytest.fixture
def kernels(path: str) -> Iterator[None]:
    """Run compiled kernels, or scans in torch operations as on a device without kernels."""
    with without_fused_kernels() if path == "torch" else nullcontext():
        yield


def sequence(model: Cell, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x (B, T, D), a state (B, S) and resets (B, T): one of all rows, several of row 0, one at step 0 of row 1."""
    torch.manual_seed(5)
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=dtype)
    with torch.no_grad():
        state = model.scan(torch.randn(BATCH, 9, WIDTH, dtype=dtype))[1]
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    reset[:, OPENS] = True
    reset[0, [7, 14, 30]] = reset[1, 0] = True
    return x, state, reset


def gradients(model: Cell, x: Tensor, state: Tensor, reset: Tensor, seen: slice) -> dict[str, Tensor]:
    """Return outputs of the steps `seen`, the last state if it is among them, and all gradients of a loss of these."""
    x, state = x.clone().requires_grad_(), state.clone().requires_grad_()
    y, last = model.scan(x, state, reset)
    torch.manual_seed(6)
    loss = (y * torch.randn_like(y))[:, seen].sum()
    if seen.stop is None:
        loss = loss + (last * torch.randn_like(last)).sum()
    leaves = {"x": x, "state": state, **dict(model.named_parameters())}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    left = {"last": last.detach()} if seen.stop is None else {}
    return {"y": y.detach()[:, seen], **left, **{f"d {n}": g for n, g in zip(leaves, found, strict=True)}}


@pytest.mark.usefixtures("kernels")
@every_model_on_both_paths
def test_nan_before_a_reset_changes_nothing_after_it(name: str, path: str) -> None:
    """Compare outputs, last state and the gradients of inputs and parameters with those of finite values."""
    dtype = PRECISION[path]
    model = build(name, dtype)
    x, state, reset = sequence(model, dtype)
    wanted = gradients(model, x, state, reset, slice(OPENS, None))
    x[0, [2, 10]], x[1, OPENS - 1], x[2, 10, 3] = torch.nan, torch.inf, -torch.inf
    state = state + VALUES[:, None].to(dtype)
    actual = gradients(model, x, state, reset, slice(OPENS, None))
    for what in wanted:
        assert_near(actual[what], wanted[what].double(), TOLERANCE[dtype], what)
    assert not actual["d x"][:, :OPENS].any()
    assert not actual["d state"].any()


@pytest.mark.usefixtures("kernels")
@every_model
@pytest.mark.parametrize(
    ("path", "value", "dtype"),
    [("compiled", 1e10, torch.float32), ("compiled", 1e30, torch.float32), ("torch", 1e300, torch.float64)],
    ids=str,
)
def test_overflow_before_a_reset_changes_nothing_after_it(name: str, value: float, dtype: torch.dtype) -> None:
    """Scan finite values whose squares or products overflow, though a norm may hide them."""
    model = build(name, dtype)
    x, state, reset = sequence(model, dtype)
    wanted = gradients(model, x, state, reset, slice(OPENS, None))
    x[0, [2, 10]], x[1, OPENS - 1], x[2, 10, 3] = value, -value, value
    x[2, 11] *= value
    actual = gradients(model, x, state, reset, slice(OPENS, None))
    for what in wanted:
        assert_near(actual[what], wanted[what].double(), TOLERANCE[dtype], what)
    assert not actual["d x"][:, :OPENS].any()


@both_paths
@pytest.mark.usefixtures("kernels")
def test_nan_weights_end_the_search_for_overflow() -> None:
    model = build("mingru", torch.float32)
    x, state, reset = sequence(model, torch.float32)
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    y, _ = model.scan(x, state, reset)
    assert y.isnan().all()


@pytest.mark.usefixtures("kernels")
@every_model_on_both_paths
def test_nan_after_a_reset_changes_nothing_before_it(name: str, path: str) -> None:
    """Read only what precedes the reset in the loss."""
    dtype = PRECISION[path]
    model = build(name, dtype)
    x, state, reset = sequence(model, dtype)
    wanted = gradients(model, x, state, reset, slice(0, OPENS))
    x[:, OPENS + 3] += VALUES[:, None].to(dtype)
    actual = gradients(model, x, state, reset, slice(0, OPENS))
    for what in wanted:
        assert_near(actual[what], wanted[what].double(), TOLERANCE[dtype], what)
    assert not actual["d x"][:, OPENS:].any()


@pytest.mark.usefixtures("kernels")
@every_model_on_both_paths
def test_a_nan_loss_reaches_no_input_before_the_reset(name: str, path: str) -> None:
    """Put NaN into later inputs or targets; the parameters' gradients show that the loss is NaN."""
    model = build(name, PRECISION[path])
    x, state, reset = sequence(model, PRECISION[path])
    wanted = gradients(model, x, state, reset, slice(0, OPENS))["d x"][:, :OPENS]
    torch.manual_seed(6)
    weight, spoiled = torch.randn(x.shape, dtype=x.dtype), x.clone()
    spoiled[:, OPENS + 3] = torch.nan
    for given, target in ((spoiled, 0.0), (x, torch.nan)):
        leaf = given.clone().requires_grad_()
        y, last = model.scan(leaf, state, reset)
        after = (y[:, OPENS + 5] - target).square().sum() + (last - target).square().sum()
        loss = (y * weight)[:, :OPENS].sum() + after
        dx, *of_parameters = torch.autograd.grad(loss, [leaf, *model.parameters()])
        assert_near(dx[:, :OPENS], wanted, TOLERANCE[PRECISION[path]], "d x")
        assert not dx[:, OPENS:].isfinite().all()
        assert any(not gradient.isfinite().all() for gradient in of_parameters)


@pytest.mark.usefixtures("kernels")
@every_model_on_both_paths
def test_non_finite_values_last_until_their_episode_ends(name: str, path: str) -> None:
    model = build(name, PRECISION[path])
    x, state, reset = sequence(model, PRECISION[path])
    wanted, _ = model.scan(x, state, reset)
    x[0, 10], x[1, 3, 2], state[2] = torch.nan, torch.inf, -torch.inf
    y, last = model.scan(x, state, reset)
    spoiled = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    spoiled[0, 10:14] = spoiled[1, 3:OPENS] = spoiled[2, :OPENS] = True
    assert not y[spoiled].isfinite().any()
    assert torch.equal(y[~spoiled], wanted[~spoiled])
    assert last.isfinite().all()


@pytest.mark.parametrize("scan", [chunked.linear_scan, linear_scan, reference.linear_scan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("steps", [5, 33, 100])
def test_the_linear_recurrence_keeps_nan_on_its_side_of_a_reset(scan: object, dtype: torch.dtype, steps: int) -> None:
    """Try NaN in decays, drives, states and gradients."""
    torch.manual_seed(7)
    decay, drive = (0.5 * torch.randn(2, steps, 3, dtype=dtype) for _ in range(2))
    state, reset = torch.randn(2, 3, dtype=dtype), torch.zeros(2, steps, dtype=torch.bool)
    opens = steps // 2
    reset[:, opens] = True
    alone = [drive[:, opens:].clone().requires_grad_(), decay[:, opens:].clone().requires_grad_()]
    wanted, left = reference.linear_scan(alone[1], alone[0])
    of_wanted = torch.autograd.grad(wanted.abs().square().sum(), alone)
    before = [drive[:, :opens].clone().requires_grad_(), decay[:, :opens].clone().requires_grad_()]
    of_before = torch.autograd.grad(reference.linear_scan(before[1], before[0], state)[0].abs().sum(), before)

    leaves = [drive.requires_grad_(), decay.requires_grad_()]
    y, _ = scan(decay, drive, state, reset)  # type: ignore[operator]
    found = torch.autograd.grad(y[:, :opens].abs().sum() + (torch.nan * y[:, opens:].abs()).sum(), leaves)
    for actual, right in zip(found, of_before, strict=True):
        assert torch.allclose(actual[:, :opens], right, atol=1e-4)

    with torch.no_grad():
        decay[:, :opens], drive[:, :opens], state[:] = torch.nan, torch.nan, torch.nan
    y, last = scan(decay, drive, state, reset)  # type: ignore[operator]
    found = torch.autograd.grad(y[:, opens:].abs().square().sum(), leaves)
    assert torch.allclose(y[:, opens:], wanted, atol=1e-5)
    assert torch.allclose(last, left, atol=1e-5)
    for actual, right in zip(found, of_wanted, strict=True):
        assert torch.allclose(actual[:, opens:], right, atol=1e-4)


@pytest.mark.usefixtures("kernels")
@both_paths
@pytest.mark.parametrize("scan", [mingru_scan, minlstm_scan])
def test_the_gated_recurrences_select(scan: object) -> None:
    parts = 2 if scan is mingru_scan else 3
    gates, state = torch.randn(2, 50, parts * 4), torch.randn(2, 4)
    reset = torch.zeros(2, 50, dtype=torch.bool)
    reset[:, 20] = True
    wanted, left = scan(gates[:, 20:])  # type: ignore[operator]
    gates[:, :20], state[:] = torch.nan, torch.inf
    y, last = scan(gates, state, reset)  # type: ignore[operator]
    assert torch.allclose(y[:, 20:], wanted, atol=1e-6)
    assert torch.allclose(last, left, atol=1e-6)
