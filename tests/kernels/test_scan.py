"""The recurrences: closed forms, the float64 loop, the published log-space form, gradients.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable
from functools import cache

import fresh
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from minrl.kernels.scan import reference
from minrl.scan import KERNELS, Candidate, linear_scan, mingru_scan, minlstm_scan

FAST = [name for name in KERNELS if name != "reference"]
LENGTHS = [1, 2, 31, 32, 33, 64, 70, 1000, 4096]

# h_t = h_{t-1} / 2 + 1: in minGRU and minLSTM the gates are sigmoid(0) = 1/2, and the candidate is
# 1.5 + 0.5 = 2. Each returns h, the last state and the leaf that the candidate comes from.
Halves = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def linear_halves(state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    drive = torch.ones(1, reset.shape[1], 1, dtype=torch.float64, requires_grad=True)
    return *linear_scan(torch.full_like(drive, 0.5), drive, state, reset), drive


def mingru_halves(state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gates = torch.tensor([0.0, 1.5], dtype=torch.float64).repeat(1, reset.shape[1], 1).requires_grad_()
    return *mingru_scan(gates, state, reset), gates


def minlstm_halves(state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gates = torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64).repeat(1, reset.shape[1], 1).requires_grad_()
    return *minlstm_scan(gates, state, reset), gates


@pytest.mark.parametrize(("halves", "slope"), [(linear_halves, 1.0), (mingru_halves, 0.5), (minlstm_halves, 0.5)])
def test_reset_at_the_right_step(halves: Halves, slope: float) -> None:
    """Refuse a reset one step late and a gradient across it (both in PufferLib's issue 622)."""
    reset = torch.tensor([[False, False, True, False, False]])
    state = torch.full((1, 1), 4.0, dtype=torch.float64, requires_grad=True)
    h, last, source = halves(state, reset)
    # 4/2 + 1, 3/2 + 1, then from a zero state: 1, 1/2 + 1, 1.5/2 + 1
    assert h[0, :, 0].tolist() == pytest.approx([3.0, 2.5, 1.0, 1.5, 1.75], abs=1e-15)
    assert last.item() == pytest.approx(1.75, abs=1e-15)
    one_late = halves(state, reset.roll(1, dims=1))[0]
    assert one_late[0, :, 0].tolist() == pytest.approx([3.0, 2.5, 2.25, 1.0, 1.5], abs=1e-15)

    d_source, d_state = torch.autograd.grad(h[0, 4, 0], [source, state], retain_graph=True)
    assert d_state.item() == 0.0
    assert d_source[0, :, -1].tolist() == pytest.approx([0, 0, slope / 4, slope / 2, slope], abs=1e-15)
    assert torch.all(d_source[0, :2] == 0)
    d_source, d_state = torch.autograd.grad(h[0, 1, 0], [source, state])
    assert d_state.item() == pytest.approx(0.25, abs=1e-15)
    assert d_source[0, :, -1].tolist() == pytest.approx([slope / 2, slope, 0, 0, 0], abs=1e-15)


def case(steps: int, dtype: torch.dtype, slowest: float = 0.9997) -> list[Tensor]:
    """Build decay from -0.5 to `slowest` by column, drive, state (float64 or complex128) and reset."""
    batch, width = 2, 5
    decay = torch.linspace(-0.5, slowest, width, dtype=dtype) * torch.ones(batch, steps, 1, dtype=dtype)
    if dtype.is_complex:
        decay = decay * torch.exp(1j * torch.rand(batch, steps, width, dtype=torch.float64))
    drive = torch.randn(batch, steps, width, dtype=dtype)
    state = torch.randn(batch, width, dtype=dtype)
    return [decay, drive, state, torch.rand(batch, steps) < 0.01]


def with_gradients(scan: Callable[..., tuple[Tensor, Tensor]], parts: list[Tensor]) -> list[Tensor]:
    """Return h, last and the gradients to decay, drive and state of a random loss of both."""
    *leaves, reset = parts
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    h, last = scan(*leaves, reset)
    torch.manual_seed(5)
    wide = torch.complex128 if h.is_complex() else torch.float64
    of_h, of_last = (
        torch.randn(h.shape, dtype=wide).to(h.dtype),
        torch.randn(last.shape, dtype=wide).to(h.dtype),
    )
    loss = (h * of_h).sum() + (last * of_last).sum()
    return [h, last, *torch.autograd.grad(loss.real if h.is_complex() else loss, leaves)]


@cache
def by_the_loop(steps: int, dtype: torch.dtype, wide: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Return a case and the results of the plain loop, for all kernels."""
    # Both start from the same rounded values, so that only the arithmetic differs.
    parts = [part if part.dtype == torch.bool else part.to(dtype).to(wide) for part in case(steps, wide)]
    return parts, with_gradients(reference.linear_scan, parts)


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize(
    ("dtype", "wide", "tolerance"),
    [
        (torch.float32, torch.float64, 5e-6),
        (torch.float64, torch.float64, 1e-12),
        (torch.complex128, torch.complex128, 1e-12),
    ],
    ids=["float32", "float64", "complex128"],
)
def test_kernels_against_the_loop(
    kernel: str, steps: int, dtype: torch.dtype, wide: torch.dtype, tolerance: float
) -> None:
    """Compare outputs, last state and every gradient, relative to the largest, with the plain loop in float64."""
    parts, wanted = by_the_loop(steps, dtype, wide)
    narrow = [part if part.dtype == torch.bool else part.to(dtype) for part in parts]
    for actual, exact in zip(with_gradients(KERNELS[kernel], narrow), wanted, strict=True):
        assert actual.dtype == dtype
        assert (actual.to(wide) - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("steps", [1, 12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
def test_gradients_against_differences(kernel: str, steps: int, dtype: torch.dtype) -> None:
    decay, drive, state, reset = case(steps, dtype, slowest=0.9)
    reset[0, steps // 2] = True
    leaves = [part[:1, ..., :2].clone().requires_grad_() for part in (decay, drive, state)]
    assert gradcheck(lambda a, b, h: KERNELS[kernel](a, b, h, reset[:1]), leaves)
    assert gradcheck(lambda a, b: KERNELS[kernel](a, b, None, None)[0], leaves[:2])


# The kernels of float64 are compiled for `make test-all` alone.
EITHER = [(torch.float32, 2e-6), pytest.param(torch.float64, 1e-10, marks=pytest.mark.slow)]


def gates(parts: int, steps: int = 70, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(2, steps, parts * 3, dtype=torch.float64)


def test_mingru_against_the_published_form() -> None:
    """Compare with the log-space training form of appendix B.2.1 where that still has its digits."""
    x = gates(2)
    assert torch.allclose(mingru_scan(x)[0], reference.log_space_mingru(x), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), EITHER)
@pytest.mark.parametrize("candidate", ["positive", "tanh", "linear"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("scan", [mingru_scan, minlstm_scan])
def test_gates_equal_the_equations(
    scan: Callable[..., tuple[Tensor, Tensor]],
    candidate: Candidate,
    signed: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """Compute appendix A.2 step by step in float64, with its gates as written there."""
    x = gates(2 if scan is mingru_scan else 3)
    state = torch.randn(2, 3, dtype=torch.float64)
    *pre, content = x.chunk(2 if scan is mingru_scan else 3, dim=-1)
    g = {
        "positive": torch.where(content >= 0, content + 0.5, content.sigmoid()),
        "tanh": content.tanh(),
        "linear": content,
    }[candidate]
    share = pre[0].sigmoid()  # z of minGRU, f of minLSTM
    insert = share if scan is mingru_scan else pre[1].sigmoid() / (share + pre[1].sigmoid())
    keep = 1 - 2 * insert if signed else 1 - insert
    h, wanted = state, []
    for t in range(x.shape[1]):
        h = keep[:, t] * h + insert[:, t] * g[:, t]
        wanted.append(h)
    actual, last = scan(x.to(dtype), state.to(dtype), candidate=candidate, signed=signed)
    assert torch.allclose(actual.double(), torch.stack(wanted, dim=1), rtol=tolerance, atol=tolerance)
    assert torch.equal(last, actual[:, -1])


@pytest.mark.parametrize(
    ("forget", "insert", "kept"),
    [
        (-120.0, -120.0, 0.5),
        (120.0, 120.0, 0.5),
        (-120.0, 120.0, 0.0),
        (120.0, -120.0, 1.0),
        (-120.0, -121.0, 0.7310585786300049),  # sigmoid(1): both gates are exponentials here
        (0.0, -120.0, 1.0),
        (0.0, 120.0, 1 / 3),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_minlstm_with_closed_gates(forget: float, insert: float, kept: float, dtype: torch.dtype) -> None:
    """Compute the share kept where both gates are closed and f / (f + i) would be 0 / 0 in floating point."""
    x = torch.tensor([[[forget, insert, 0.0]]], dtype=dtype, requires_grad=True)
    state = torch.full((1, 1), 3.0, dtype=dtype)
    h, _ = minlstm_scan(x, state, candidate="linear")
    assert h.item() == pytest.approx(3.0 * kept, abs=1e-6)
    (dx,) = torch.autograd.grad(h.sum(), x)
    # dh/dforget = 3 f' i' (1 - f), dh/dinsert = -3 f' i' (1 - i), dh/dcandidate = i'
    f, i = torch.tensor([forget, insert], dtype=torch.float64).sigmoid().tolist()
    wanted = [3 * kept * (1 - kept) * (1 - f), -3 * kept * (1 - kept) * (1 - i), 1 - kept]
    assert dx[0, 0].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("scan", "parts"), [(mingru_scan, 2), (minlstm_scan, 3)])
def test_half_precision_gates_make_a_float32_state(scan: Callable[..., tuple[Tensor, Tensor]], parts: int) -> None:
    x = gates(parts, steps=300).bfloat16()
    exact, exact_last = scan(x.double())
    h, last = scan(x)
    assert h.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    assert torch.allclose(last.double(), exact_last, rtol=1e-5, atol=1e-5)
    assert torch.allclose(h.double(), exact, rtol=2**-8, atol=1e-5)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((zeros(2, 5), zeros(2, 5)), r"must both be \(B, T, D\).*got \(2, 5\) and \(2, 5\)"),
        ((zeros(2, 5, 3), zeros(2, 5, 4)), r"got \(2, 5, 3\) and \(2, 5, 4\)"),
        ((zeros(2, 0, 3), zeros(2, 0, 3)), "T >= 1"),
        ((zeros(2, 5, 3), zeros(2, 5, 3), zeros(2, 4)), r"state must be \(B, D\) = \(2, 3\), got \(2, 4\)"),
        (
            (zeros(2, 5, 3), zeros(2, 5, 3), None, zeros(2, 4).bool()),
            r"reset must be bool of shape \(B, T\) = \(2, 5\)",
        ),
        ((zeros(2, 5, 3), zeros(2, 5, 3), None, zeros(2, 5)), r"got torch\.float32"),
    ],
)
def test_bad_shapes(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_scan(*arguments)


@pytest.mark.parametrize("scan", [mingru_scan, minlstm_scan])
def test_unknown_candidate(scan: Callable[..., tuple[Tensor, Tensor]]) -> None:
    with pytest.raises(ValueError, match="candidate must be one of positive, tanh, linear, got 'relu'"):
        scan(torch.zeros(1, 1, 6), candidate="relu")


def test_runs_where_only_torch_is_installed() -> None:
    """Import and run the recurrences, the cells and the backbone without any other package."""
    blocked = ["gymnasium", "minari", "h5py", "stable_baselines3", "numba", "triton", "tensorboard", "tqdm", "tomli_w"]
    program = f"""
import sys
for name in {blocked}: sys.modules[name] = None
import torch, minrl, minrl.scan, minrl.cells, minrl.backbone
for name in minrl.cells.CELLS:
    model = minrl.backbone.Backbone(8, 1, name)
    model.scan(torch.randn(2, 5, 8))[0].sum().backward()
    model.step(torch.randn(2, 8), model.initial_state(2))
"""
    fresh.run(program, check=True)


def test_each_module_can_be_imported_first() -> None:
    """Import each in a child of a process that has loaded torch alone."""
    program = """
import importlib, os, torch
for module in ("scan", "kernels", "cells", "cells.convolution", "backbone"):
    child = os.fork()
    if not child:
        importlib.import_module(f"minrl.{module}")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""
    fresh.run(program, check=True)
