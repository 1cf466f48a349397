"""LRU against the paper's equations as a plain loop in complex128, and its published initialisation.

Shapes: B batch, T time, D width, N complex states.
"""

import math

import pytest
import torch
from contract import assert_near
from torch import Tensor

from minrl.cells.lru import LRU

WIDTH, STATES, STEPS = 12, 9, 70


def as_the_paper_reads(model: LRU, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Compute equation 1 with section 3.3's decay and section 3.4's factor: x (B, T, D), h (B, N) complex."""
    decay = torch.exp(torch.complex(-torch.exp(model.nu_log), torch.exp(model.theta_log)))
    matrix = torch.exp(model.gamma_log).unsqueeze(1) * torch.complex(model.B_re, model.B_im)
    outputs = []
    for t in range(x.shape[1]):
        h = decay * h + x[:, t].to(matrix.dtype) @ matrix.T
        outputs.append((h @ torch.complex(model.C_re, model.C_im).T).real + model.D * x[:, t])
    return torch.stack(outputs, dim=1), h


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_agrees_with_the_equations(dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs, state and the gradients of inputs and all weights, from a carried state."""
    model = LRU(WIDTH, state_width=STATES, r_min=0.5).double()
    x = torch.randn(3, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    h = torch.randn(3, STATES, dtype=torch.complex128)
    weight = torch.randn(3, STEPS, WIDTH, dtype=torch.float64)
    wanted, left = as_the_paper_reads(model, x, h)
    leaves = [x, *model.parameters()]
    gradients = torch.autograd.grad((wanted * weight).sum(), leaves)

    model = model.to(dtype)
    leaf = x.detach().to(dtype).requires_grad_()
    y, last = model.scan(leaf, torch.view_as_real(h).flatten(1).to(dtype))
    assert_near(y, wanted, tolerance, "y")
    assert_near(last, torch.view_as_real(left).flatten(1), tolerance, "state")
    actual = torch.autograd.grad((y * weight.to(dtype)).sum(), [leaf, *model.parameters()])
    for gradient, exact in zip(actual, gradients, strict=True):
        assert_near(gradient, exact, tolerance, "gradient")


def test_starts_as_published() -> None:
    """Check lemma 3.2: uniform decays on the ring, so uniform squared moduli and phases; the listing's variances."""
    model = LRU(256, state_width=4096, r_min=0.4, r_max=0.9, max_phase=1.0)
    square = torch.exp(-2 * torch.exp(model.nu_log.double()))
    phase = torch.exp(model.theta_log.double())
    assert 0.4**2 - 1e-6 <= square.min() <= 0.4**2 + 1e-2
    assert 0.9**2 - 1e-2 <= square.max() <= 0.9**2 + 1e-6
    # The mean of 4096 uniform numbers lies within 0.0045 standard deviations times four of the middle.
    assert square.mean().item() == pytest.approx((0.4**2 + 0.9**2) / 2, abs=0.65 * 0.29 * 4 / 64)
    assert phase.mean().item() == pytest.approx(0.5, abs=0.29 * 4 / 64)
    assert phase.max() <= 1 + 1e-6
    assert torch.allclose(torch.exp(model.gamma_log.double()), torch.sqrt(1 - square), rtol=1e-5)
    for name, deviation in (("B_re", 512**-0.5), ("B_im", 512**-0.5), ("C_re", 1 / 64), ("C_im", 1 / 64)):
        assert getattr(model, name).std().item() == pytest.approx(deviation, rel=0.01), name
    assert model.D.std().item() == pytest.approx(1.0, abs=0.2)


def test_the_whole_disc_is_finite() -> None:
    """Build the default ring, which reaches from 0 to 1, where the logarithms end."""
    model = LRU(4, state_width=1 << 16)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name


def test_white_noise_keeps_its_variance() -> None:
    """Check section 3.4: with gamma the states have the variance of B x, whatever the modulus."""
    model = LRU(16, state_width=64, r_min=0.5, r_max=0.99)
    _, last = model.scan(torch.randn(4096, 400, 16))
    of_drive = (model.B_re.square() + model.B_im.square()).sum(1)
    variance = last.unflatten(1, (-1, 2)).square().sum(-1).mean(0)
    assert torch.allclose(variance, of_drive, rtol=0.15)
    assert math.isclose((variance / of_drive).mean().item(), 1.0, abs_tol=0.02)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="state_width must be at least 1, got 0"):
        LRU(WIDTH, state_width=0)
    with pytest.raises(ValueError, match="need 0 <= r_min < r_max <= 1"):
        LRU(WIDTH, r_min=0.9, r_max=0.5)
