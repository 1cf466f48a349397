"""S4D against its published convolution in complex128, and its published initialisation.

Shapes: B batch, T time, D width, M states of a channel.
"""

import math

import pytest
import torch
from contract import assert_near
from torch import Tensor
from torch.nn import functional as F

from minrl.cells import s4d
from minrl.cells.s4d import S4D, Initialization
from minrl.scan import without_fused_kernels

WIDTH, STEPS = 10, 150


def convolved(model: S4D, x: Tensor) -> Tensor:
    """Convolve with section 3's kernel K_l = C A-bar^l B-bar of each channel: x (B, T, D) float64."""
    a = -torch.exp(model.log_A_real) + 1j * (0 if model.A_imag is None else model.A_imag)
    c = torch.complex(model.C[..., 0], torch.zeros_like(model.C[..., 0]))
    pairs = 1.0
    if model.A_imag is not None:
        c, pairs = torch.view_as_complex(model.C), 2.0
    dt = torch.exp(model.log_dt).unsqueeze(1)
    steps = x.shape[1]
    powers = torch.exp((a * dt).unsqueeze(-1) * torch.arange(steps))  # (D, M, T)
    kernel = pairs * ((c * (torch.exp(a * dt) - 1) / a).unsqueeze(-1) * powers).sum(1).real  # (D, T)
    lag = torch.arange(steps).unsqueeze(1) - torch.arange(steps)
    toeplitz = torch.where(lag >= 0, kernel[:, lag.clamp(min=0)], 0.0)  # (D, T, T)
    y = torch.einsum("dts,bsd->btd", toeplitz, x) + model.D * x
    value, gate = (F.gelu(y) @ model.output_linear.weight.T + model.output_linear.bias).chunk(2, dim=-1)
    return value * torch.sigmoid(gate)


@pytest.mark.parametrize("init", ["lin", "inv", "real"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_agrees_with_the_convolution(init: Initialization, dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs and gradients of inputs and all weights over several pieces, and outputs step by step."""
    model = S4D(WIDTH, state_width=16, init=init).double()
    x = torch.randn(2, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, STEPS, WIDTH, dtype=torch.float64)
    wanted = convolved(model, x)
    gradients = torch.autograd.grad((wanted * weight).sum(), [x, *model.parameters()])

    model = model.to(dtype)
    leaf = x.detach().to(dtype).requires_grad_()
    y, _ = model.scan(leaf)
    assert_near(y, wanted, tolerance, "y")
    actual = torch.autograd.grad((y * weight.to(dtype)).sum(), [leaf, *model.parameters()])
    for gradient, exact in zip(actual, gradients, strict=True):
        assert_near(gradient, exact, tolerance, "gradient")
    state = model.initial_state(2)
    with torch.no_grad():
        for t in range(STEPS):
            y_t, state = model.step(leaf[:, t], state)
            assert_near(y_t, wanted[:, t], tolerance, f"step {t}")


def test_starts_as_published() -> None:
    """Check section 4: A for N = 8, step sizes log-uniform in [0.001, 0.1], C of variance 1."""
    lin, inv, real = (S4D(512, state_width=8, init=name) for name in ("lin", "inv", "real"))
    assert torch.allclose(-lin.log_A_real.exp(), torch.full((512, 4), -0.5))
    assert lin.A_imag is not None
    assert inv.A_imag is not None
    assert real.A_imag is None
    assert torch.allclose(lin.A_imag[7], math.pi * torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert torch.allclose(-inv.log_A_real.exp(), torch.full((512, 4), -0.5))
    # 8/pi (8/(2n+1) - 1) for n = 0 … 3: 56/pi, 40/(3 pi), 24/(5 pi), 8/(7 pi)
    assert torch.allclose(inv.A_imag[3], torch.tensor([56.0, 40 / 3, 24 / 5, 8 / 7]) / math.pi)
    assert torch.allclose(-real.log_A_real.exp(), -torch.arange(1.0, 9.0).expand(512, 8))
    for model in (lin, inv, real):
        dt = model.log_dt.exp()
        assert 0.999e-3 <= dt.min() <= dt.max() <= 0.1001
        assert dt.log().mean().item() == pytest.approx(math.log(1e-2), abs=4 * 1.33 / 512**0.5)
        assert model.C.square().sum(-1).mean().item() == pytest.approx(1.0, abs=0.15)
        assert model.state_size == 512 * 8
    assert S4D(4).state_size == 4 * 64


def test_pieces_are_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recompute long sequences piece by piece, with resets, without changing outputs or gradients."""
    model = S4D(WIDTH, state_width=6).double()
    x = torch.randn(2, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(2, STEPS) < 0.1

    def run(piece: int) -> list[Tensor]:
        monkeypatch.setattr(s4d, "_PIECE", piece)
        with without_fused_kernels():  # kernels take no pieces
            y, last = model.scan(x, None, reset)
            return [y, last, *torch.autograd.grad(y.square().sum() + last.sum(), [x, *model.parameters()])]

    for actual, wanted in zip(run(16), run(STEPS), strict=True):
        assert_near(actual, wanted, 1e-12, "pieces")


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="init must be one of lin, inv, real, got 'hippo'"):
        S4D(WIDTH, init="hippo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="even for init='lin', got 5"):
        S4D(WIDTH, state_width=5)
    with pytest.raises(ValueError, match="dt_min and dt_max must be positive and in order"):
        S4D(WIDTH, dt_min=0.0)
