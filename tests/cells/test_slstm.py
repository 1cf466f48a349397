"""sLSTM against the equations of its paper, in float64 and without a stabiliser.

Shapes: B batch, T time, D width, H heads of E units.
"""

import math

import pytest
import torch
from contract import WAYS, assert_near
from torch import Tensor
from torch.nn import functional as F

from minrl.cells.slstm import SLSTM

WIDTH, HEADS, BATCH, STEPS = 16, 2, 3, 70


def lively(dtype: torch.dtype) -> SLSTM:
    """Build a cell whose heads mix their state, which the published initialisation does not yet."""
    model = SLSTM(WIDTH, heads=HEADS).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


def by_the_paper(model: SLSTM, x: Tensor, reset: Tensor) -> Tensor:
    """Compute equations 8 to 14 (sigmoid forget gate), without a stabiliser and with R as one block-diagonal matrix."""
    mixed = F.silu(model.conv.scan(x, None, reset)[0])
    pairs = ((mixed, model.igate), (mixed, model.fgate), (x, model.zgate), (x, model.ogate))
    given = [of @ torch.block_diag(*part.weight).T for of, part in pairs]
    recurrent = [torch.block_diag(*model.recurrent_kernel[:, :, gate]) for gate in range(4)]
    bias = [model.bias[:, gate].flatten() for gate in range(4)]
    h = c = n = x.new_zeros(x.shape[0], WIDTH)
    outputs = []
    for t in range(x.shape[1]):
        h, c, n = (part.masked_fill(reset[:, t, None], 0.0) for part in (h, c, n))
        i, f, z, o = (of[:, t] + h @ r + b for of, r, b in zip(given, recurrent, bias, strict=True))
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        h = torch.sigmoid(o) * c / n
        outputs.append(h)
    y = torch.stack(outputs, dim=1)
    return F.group_norm(y.flatten(0, 1), HEADS, 1 + model.group_norm).view_as(x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_agrees_with_the_paper(way: str, dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs and every gradient; the stabiliser takes none, and needs none."""
    model = lively(dtype)
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=dtype, requires_grad=True)
    reset, weight = torch.rand(BATCH, STEPS) < 0.05, torch.randn(BATCH, STEPS, WIDTH, dtype=dtype)
    leaves = {"x": x, **dict(model.named_parameters())}
    y, _ = WAYS[way](model, x, model.initial_state(BATCH), reset)
    ours = torch.autograd.grad((y * weight).sum(), list(leaves.values()))
    exact = SLSTM(WIDTH, heads=HEADS).double()
    exact.load_state_dict(model.state_dict())
    x = x.detach().double().requires_grad_()
    wanted = by_the_paper(exact, x, reset)
    assert_near(y, wanted, tolerance, "y")
    gradients = torch.autograd.grad((wanted * weight).sum(), [x, *exact.parameters()])
    for name, actual, gradient in zip(leaves, ours, gradients, strict=True):
        assert_near(actual, gradient, tolerance, f"d {name}")


def test_the_state_mixes_within_a_head_only() -> None:
    """Check that a unit's gradient reaches the units of its own head one step before, and no other."""
    model = lively(torch.float32)
    state = model.scan(torch.randn(1, 5, WIDTH))[1].detach().requires_grad_()
    size, first = WIDTH // HEADS, model.conv.state_size
    last = model.step(torch.randn(1, WIDTH), state)[1]
    (gradient,) = torch.autograd.grad(last[0, first], state)
    reached = gradient[0, first : first + WIDTH] != 0
    assert reached.tolist() == [True] * size + [False] * (WIDTH - size)


def test_a_first_input_counts_fully_however_weak() -> None:
    """Check h = sigmoid(o) tanh(z) after one step, also where the input gate is exp(-200)."""
    model = lively(torch.float32)
    with torch.no_grad():
        model.bias[:, 0] = -200.0
    x = torch.randn(BATCH, WIDTH)
    _, last = model.step(x, model.initial_state(BATCH))
    z, o = model.zgate(x) + model.bias[:, 2].flatten(), model.ogate(x) + model.bias[:, 3].flatten()
    h = last[:, model.conv.state_size :][:, :WIDTH]
    assert torch.allclose(h, torch.sigmoid(o) * torch.tanh(z), atol=1e-6)


def test_starts_as_published() -> None:
    """Check: no mixing, forget gates from 5 to -7 in each head, four heads where they have at least eight units."""
    model = SLSTM(128)
    assert model.recurrent_kernel.shape == (4, 32, 4, 32)
    assert not model.recurrent_kernel.any()
    assert torch.equal(model.bias[:, 1, 0], torch.full((4,), 5.0))
    assert torch.allclose(model.bias[:, 1, -1], torch.full((4,), -7.0))
    assert not model.bias[:, [0, 2, 3]].any()
    assert model.igate.weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 128)), rel=0.1)
    assert [SLSTM(width).heads for width in (8, 16, 32, 100)] == [1, 2, 4, 1]


def test_bad_heads() -> None:
    with pytest.raises(ValueError, match="heads must divide the width, got heads=3 and width=16"):
        SLSTM(WIDTH, heads=3)
