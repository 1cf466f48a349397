"""QRNN against the paper's equations as a plain loop in float64, and its initialisation.

Shapes: B batch, T time, D width, H inner width.
"""

import pytest
import torch
from contract import assert_near
from torch import Tensor

from minrl.cells.qrnn import QRNN, Pooling

WIDTH, INNER, STEPS = 10, 15, 70


def as_the_paper_reads(model: QRNN, x: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """Compute equations 2 to 5 for a window of two: x (B, T, D), state x_{t-1} | c."""
    before, c = state[:, : model.width], state[:, model.width :]
    outputs = []
    for t in range(x.shape[1]):
        kept = ~reset[:, t, None]
        before, c = before * kept, c * kept
        parts = model.linear(torch.cat([x[:, t], before], dim=1)).chunk(1 + len(model.pooling), dim=1)
        z, f = torch.tanh(parts[0]), torch.sigmoid(parts[1])
        i = torch.sigmoid(parts[3]) if model.pooling == "ifo" else 1 - f
        c = f * c + i * z
        h = c if model.pooling == "f" else torch.sigmoid(parts[2]) * c
        outputs.append(model.down(h))
        before = x[:, t]
    return torch.stack(outputs, dim=1), torch.cat([before, c], dim=1)


@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_agrees_with_the_equations(pooling: Pooling, dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs, state and the gradients of inputs, state and all weights, with resets."""
    model = QRNN(WIDTH, expand=INNER / WIDTH, pooling=pooling).double()
    x = torch.randn(3, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    state = torch.randn(3, WIDTH + INNER, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(3, STEPS) < 0.1
    reset[:, 0] = torch.tensor([True, False, False])
    weight = torch.randn(3, STEPS, WIDTH, dtype=torch.float64)
    wanted, left = as_the_paper_reads(model, x, state, reset)
    gradients = torch.autograd.grad((wanted * weight).sum() + left.sum(), [x, state, *model.parameters()])

    model = model.to(dtype)
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in (x, state)]
    y, last = model.scan(*leaves, reset)
    assert_near(y, wanted, tolerance, "y")
    assert_near(last, left, tolerance, "state")
    loss = (y * weight.to(dtype)).sum() + last.sum()
    for gradient, exact in zip(
        torch.autograd.grad(loss, [*leaves, *model.parameters()]), gradients, strict=True
    ):  # fmt: skip
        assert_near(gradient, exact, tolerance, "gradient")


def test_nan_ends_at_a_reset() -> None:
    """Check the window and the state."""
    model = QRNN(WIDTH)
    x = torch.randn(1, 6, WIDTH)
    x[0, 3] = float("nan")
    x.requires_grad_()
    reset = torch.tensor([[False, False, False, False, True, False]])
    y, last = model.scan(x, None, reset)
    assert y[0, 3].isnan().all()
    assert y[0, 4:].isfinite().all()
    assert last.isfinite().all()
    (dx,) = torch.autograd.grad(y[0, 4:].sum(), x)
    assert dx[0, 4:].isfinite().all()
    assert dx[0, 4:].abs().min() > 0


def test_hold_is_the_share_of_the_state_kept() -> None:
    """Keep sigmoid(hold) of each unit's state at each step, with weights of zero."""
    for pooling in ("f", "fo", "ifo"):
        model = QRNN(WIDTH, pooling=pooling, hold=(-1.0, 3.0))
        torch.nn.init.zeros_(model.linear.weight)
        zero, one = model.initial_state(1), model.initial_state(1) + 1.0
        x = torch.zeros(1, WIDTH)
        kept = (model.step(x, one)[1] - model.step(x, zero)[1])[0, WIDTH:]
        assert torch.allclose(kept, torch.sigmoid(torch.linspace(-1.0, 3.0, WIDTH)), atol=1e-6)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="pooling must be one of f, fo, ifo, got 'o'"):
        QRNN(WIDTH, pooling="o")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a whole number"):
        QRNN(WIDTH, expand=0.33)
