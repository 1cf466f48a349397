"""SRU against the paper's equations as a plain loop in float64, and its published initialisation.

Shapes: B batch, T time, D width.
"""

import math

import pytest
import torch
from contract import assert_near
from torch import Tensor

from minrl.cells.sru import SRU

WIDTH, STEPS = 12, 70


def as_the_paper_reads(model: SRU, x: Tensor, c: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Compute the equations without the gates' terms in c: x (B, T, D), c (B, D)."""
    w, w_f, w_r = model.weight.chunk(3)
    b_f, b_r = model.bias.chunk(2)
    outputs = []
    for t in range(x.shape[1]):
        f = torch.sigmoid(x[:, t] @ w_f.T + b_f)
        r = torch.sigmoid(x[:, t] @ w_r.T + b_r)
        c = f * c + (1 - f) * (x[:, t] @ w.T)
        outputs.append(r * c + (1 - r) * x[:, t] * alpha)
    return torch.stack(outputs, dim=1), c


@pytest.mark.parametrize(("rescale", "alpha"), [(True, math.sqrt(1 + 2 * math.exp(-2))), (False, 1.0)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_agrees_with_the_equations(rescale: bool, alpha: float, dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs, state and the gradients of inputs, state and weights."""
    model = SRU(WIDTH, rescale=rescale, highway_bias=-2.0).double()
    x = torch.randn(3, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    c = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, STEPS, WIDTH, dtype=torch.float64)
    wanted, left = as_the_paper_reads(model, x, c, alpha)
    gradients = torch.autograd.grad((wanted * weight).sum() + left.sum(), [x, c, *model.parameters()])

    model = model.to(dtype)
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in (x, c)]
    y, last = model.scan(*leaves)
    assert_near(y, wanted, tolerance, "y")
    assert_near(last, left, tolerance, "state")
    loss = (y * weight.to(dtype)).sum() + last.sum()
    actual = torch.autograd.grad(loss, [*leaves, *model.parameters()])
    for gradient, exact in zip(actual, gradients, strict=True):
        assert_near(gradient, exact, tolerance, "gradient")


def test_starts_as_published() -> None:
    """Check section 3.2: weights uniform with variance 1 / D; biases zero except for `hold` and `highway_bias`."""
    model = SRU(256, highway_bias=-1.5, hold=(0.0, 2.0))
    assert model.weight.var().item() == pytest.approx(1 / 256, rel=0.01)
    assert model.weight.abs().max() <= math.sqrt(3 / 256)
    forget, highway = model.bias.chunk(2)
    assert torch.allclose(forget, torch.linspace(0.0, 2.0, 256))
    assert torch.all(highway == -1.5)


def test_the_highway_keeps_the_variance() -> None:
    """Check section 3.2: alpha is there so that, for white noise, outputs vary as inputs do at the start.

    The derivation takes f = r = 1/2 and the variance of c as that of its candidate over two terms: c is a mean
    of candidates over time and loses variance, so the outputs' lies below one, yet nearer to it than with alpha 1.
    """
    x = torch.randn(64, 100, 128)
    with_alpha, without = (
        SRU(128, rescale=rescale, hold=(0.0, 0.0)).scan(x)[0][:, 50:].var().item() for rescale in (True, False)
    )
    assert abs(with_alpha - 1) < 0.2 < abs(without - 1)


def test_hold_is_the_share_of_the_state_kept() -> None:
    """Keep sigmoid(hold) of each unit's state at each step, with weights of zero."""
    model = SRU(WIDTH, hold=(-1.0, 3.0))
    torch.nn.init.zeros_(model.weight)
    _, last = model.step(torch.zeros(1, WIDTH), model.initial_state(1) + 1.0)
    assert torch.allclose(last[0], torch.sigmoid(torch.linspace(-1.0, 3.0, WIDTH)), atol=1e-6)
