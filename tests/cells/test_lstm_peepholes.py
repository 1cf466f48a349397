"""The LSTM with peepholes against its equations and, with peepholes of zero, against the LSTM without.

Shapes: B batch, T time, D width, H inner width.
"""

import pytest
import torch
from contract import WAYS, assert_near
from torch import Tensor

from minrl.cells.lstm import LSTM

WIDTH, INNER, BATCH, STEPS = 8, 16, 3, 70


def by_the_paper(model: LSTM, x: Tensor, reset: Tensor) -> Tensor:
    """Compute Gers and Schmidhuber (2000), section 2: i and f read c before the step, o reads it after."""
    w_input, w_hidden, b_input, b_hidden = model.lstm.all_weights[0]
    p_input, p_forget, p_output = model.peepholes
    h = c = x.new_zeros(x.shape[0], INNER)
    outputs = []
    for t in range(x.shape[1]):
        h, c = (part.masked_fill(reset[:, t, None], 0.0) for part in (h, c))
        i, f, g, o = (x[:, t] @ w_input.T + b_input + h @ w_hidden.T + b_hidden).chunk(4, dim=-1)
        i, f = torch.sigmoid(i + p_input * c), torch.sigmoid(f + p_forget * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + p_output * c) * torch.tanh(c)
        outputs.append(h)
    return model.down(torch.stack(outputs, dim=1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_agrees_with_the_paper(way: str, dtype: torch.dtype, tolerance: float) -> None:
    model = LSTM(WIDTH, expand=2, peepholes=True).to(dtype)
    with torch.no_grad():
        model.peepholes.normal_()
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=dtype, requires_grad=True)
    reset, weight = torch.rand(BATCH, STEPS) < 0.05, torch.randn(BATCH, STEPS, WIDTH, dtype=dtype)
    y, _ = WAYS[way](model, x, model.initial_state(BATCH), reset)
    ours = torch.autograd.grad((y * weight).sum(), [x, *model.parameters()])
    exact, x = model.double(), x.detach().double().requires_grad_()
    wanted = by_the_paper(exact, x, reset)
    assert_near(y, wanted, tolerance, "y")
    gradients = torch.autograd.grad((wanted * weight).sum(), [x, *exact.parameters()])
    for actual, gradient in zip(ours, gradients, strict=True):
        assert_near(actual, gradient, tolerance, "gradient")


@pytest.mark.parametrize("way", WAYS)
def test_peepholes_of_zero_are_none(way: str) -> None:
    plain, model = LSTM(WIDTH, expand=2), LSTM(WIDTH, expand=2, peepholes=True)
    model.load_state_dict({**plain.state_dict(), "peepholes": torch.zeros(3, INNER)})
    x, state = torch.randn(BATCH, STEPS, WIDTH), torch.randn(BATCH, 2 * INNER)
    reset = torch.rand(BATCH, STEPS) < 0.05
    for actual, wanted in zip(WAYS[way](model, x, state, reset), plain.scan(x, state, reset), strict=True):
        assert_near(actual, wanted, 1e-6, way)


def test_the_gates_read_c() -> None:
    """Check that the output gate alone, with no other weights, tells cell states apart."""
    model = LSTM(WIDTH, peepholes=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.peepholes[2] = 1.0
    c = torch.linspace(-2, 2, WIDTH).expand(1, WIDTH)
    y, _ = model.step(torch.zeros(1, WIDTH), torch.cat([torch.zeros_like(c), c], dim=1))
    assert torch.allclose(y, torch.sigmoid(c / 2) * torch.tanh(c / 2), atol=1e-6)


def test_off_by_default() -> None:
    assert LSTM(WIDTH).peepholes is None
    assert "peepholes" not in LSTM(WIDTH).state_dict()
    assert LSTM(WIDTH, expand=2, peepholes=True).state_dict()["peepholes"].shape == (3, INNER)
