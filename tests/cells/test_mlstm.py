"""mLSTM against the equations of its paper, one step after the other in float64 and without a stabiliser.

Shapes: B batch, T time, D width, H heads of E features.
"""

import math

import pytest
import torch
from contract import WAYS, assert_near
from torch import Tensor
from torch.nn import functional as F

from minrl.cells.mlstm import MLSTM

WIDTH, HEADS, BATCH, STEPS = 12, 3, 3, 70


def lively(dtype: torch.dtype) -> MLSTM:
    """Build a cell whose gates depend on the input and whose weights are neither 0 nor 1."""
    model = MLSTM(WIDTH, heads=HEADS).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


def block_map(x: Tensor, weight: Tensor) -> Tensor:
    return x @ torch.block_diag(*weight).T


def by_the_paper(model: MLSTM, x: Tensor, reset: Tensor) -> Tensor:
    """Compute the block of appendix A.4 around equations 19 to 27 (sigmoid forget gate), without a stabiliser."""
    content, gate = model.proj_up(x).chunk(2, dim=-1)
    mixed = F.silu(model.conv.scan(content, None, reset)[0])
    q, k, v = (
        block_map(of, part.weight)
        for of, part in ((mixed, model.q_proj), (mixed, model.k_proj), (content, model.v_proj))
    )
    gates = torch.cat([q, k, v], dim=-1)
    i, f = torch.exp(model.igate(gates)), torch.sigmoid(model.fgate(gates))
    q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in (q, k, v))
    size, h = q.shape[-1], []
    c = x.new_zeros(x.shape[0], HEADS, size, size)
    n = x.new_zeros(x.shape[0], HEADS, size)
    for t in range(x.shape[1]):
        c, n = (part.masked_fill(reset[:, t].view(-1, *[1] * (part.dim() - 1)), 0.0) for part in (c, n))
        key = k[:, t] / math.sqrt(size)
        c = f[:, t, :, None, None] * c + i[:, t, :, None, None] * v[:, t, :, :, None] * key[:, :, None, :]
        n = f[:, t, :, None] * n + i[:, t, :, None] * key
        below = (n * q[:, t]).sum(-1).abs().clamp(min=1.0)
        h.append((c @ q[:, t].unsqueeze(-1)).squeeze(-1) / below.unsqueeze(-1))
    normed = F.group_norm(torch.stack(h, dim=1).flatten(2).flatten(0, 1), HEADS, 1 + model.outnorm)
    y = (normed.view_as(mixed) + model.learnable_skip * mixed) * F.silu(gate)
    return model.proj_down(y)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_agrees_with_the_paper(way: str, dtype: torch.dtype) -> None:
    """Compare to 1e-5 also in float64: the published code adds 1e-6 to the normaliser, and so does this."""
    model = lively(dtype)
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=dtype)
    reset = torch.rand(BATCH, STEPS) < 0.05
    y, _ = WAYS[way](model, x, model.initial_state(BATCH), reset)
    wanted = by_the_paper(model.double(), x.double(), reset)
    assert_near(y, wanted, 1e-5, way)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4)], ids=["float64", "float32"]
)
def test_gradients_are_those_of_the_paper(dtype: torch.dtype, tolerance: float) -> None:
    """Check that the stabiliser, which takes no gradient, needs none."""
    model = lively(dtype)
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=dtype, requires_grad=True)
    weight, reset = torch.randn_like(x), torch.rand(BATCH, STEPS) < 0.05
    leaves = {"x": x, **dict(model.named_parameters())}
    ours = torch.autograd.grad((model.scan(x, None, reset)[0] * weight).sum(), list(leaves.values()))
    exact, x = model.double(), x.detach().double().requires_grad_()
    leaves = {"x": x, **dict(exact.named_parameters())}
    wanted = torch.autograd.grad((by_the_paper(exact, x, reset) * weight).sum(), list(leaves.values()))
    for name, actual, gradient in zip(leaves, ours, wanted, strict=True):
        assert_near(actual, gradient, tolerance, f"d {name}")


def test_starts_as_published() -> None:
    """Check forget biases from 3 to 6, gates independent of the input, small weights (sizes of the released code)."""
    model = MLSTM(128)
    assert torch.allclose(model.fgate.bias, torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert not model.fgate.weight.any()
    assert not model.igate.weight.any()
    assert model.q_proj.weight.shape == (64, 4, 4)
    assert model.igate.weight.shape == (4, 3 * 256)
    for weight in (model.proj_up.weight, model.q_proj.weight, model.k_proj.weight, model.v_proj.weight):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 128)), rel=0.1)
    assert model.proj_down.weight.std().item() == pytest.approx(2 / math.sqrt(128), rel=0.1)
    assert model.state_size == 3 * 256 + 4 + 4 * 64 * 65


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="must divide expand \\* width = 24, got heads=5 and block_width=4"):
        MLSTM(WIDTH, heads=5)
    with pytest.raises(ValueError, match="got heads=4 and block_width=7"):
        MLSTM(WIDTH, block_width=7)
