"""S5 against the paper's equations with all its states in complex128, and its published initialisation.

Shapes: B batch, T time, D width, N states.
"""

import math

import pytest
import torch
from contract import assert_near
from torch import Tensor

from minrl.cells.diagonal import expm1
from minrl.cells.s5 import S5, hippo_normal

WIDTH, STATES, STEPS = 12, 16, 70


def as_the_paper_reads(model: S5, x: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Compute sections 2 and 3 over all N states, each with its conjugate: x (B, T, D), state (B, N / 2) complex."""

    def whole(number: Tensor, dim: int) -> Tensor:
        return torch.cat([number, number.conj()], dim)

    decay = whole(torch.complex(model.Lambda_re, model.Lambda_im), 0)
    dt = torch.exp(model.log_step[:, 0]).repeat(2)
    discrete = torch.exp(decay * dt)
    matrix = ((discrete - 1) / decay).unsqueeze(1) * whole(torch.view_as_complex(model.B), 0)
    out = whole(torch.view_as_complex(model.C), 1)
    h, outputs = whole(half, 1), []
    for t in range(x.shape[1]):
        h = discrete * h + x[:, t].to(matrix.dtype) @ matrix.T
        y = h @ out.T
        assert y.imag.abs().max() < 1e-12
        outputs.append(y.real + model.D * x[:, t])
    return torch.stack(outputs, dim=1), h[:, : half.shape[1]]


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_agrees_with_the_equations(blocks: int, dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs, state and the gradients of inputs and all weights, from a carried state."""
    model = S5(WIDTH, state_width=STATES, blocks=blocks).double()
    x = torch.randn(3, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    h = torch.randn(3, STATES // 2, dtype=torch.complex128)
    weight = torch.randn(3, STEPS, WIDTH, dtype=torch.float64)
    wanted, left = as_the_paper_reads(model, x, h)
    gradients = torch.autograd.grad((wanted * weight).sum(), [x, *model.parameters()])

    model = model.to(dtype)
    leaf = x.detach().to(dtype).requires_grad_()
    y, last = model.scan(leaf, torch.view_as_real(h).flatten(1).to(dtype))
    assert_near(y, wanted, tolerance, "y")
    assert_near(last, torch.view_as_real(left).flatten(1), tolerance, "state")
    actual = torch.autograd.grad((y * weight.to(dtype)).sum(), [leaf, *model.parameters()])
    for gradient, exact in zip(actual, gradients, strict=True):
        assert_near(gradient, exact, tolerance, "gradient")


def test_the_eigenvectors_are_those_of_hippo() -> None:
    """Rebuild HiPPO-LegS (appendix B.1), entry by entry, plus p p^T from eigenvectors and eigenvalues."""
    size = 10
    wanted = torch.zeros(size, size, dtype=torch.float64)
    for n in range(size):
        for k in range(size):
            if n > k:
                wanted[n, k] = -math.sqrt((2 * n + 1) * (2 * k + 1))
            elif n == k:
                wanted[n, k] = -(n + 1)
            wanted[n, k] += math.sqrt((n + 0.5) * (k + 0.5))
    values, vectors = hippo_normal(size)
    half = (vectors * values) @ vectors.mH
    assert torch.allclose(half + half.conj(), wanted.to(half.dtype), atol=1e-12)
    assert torch.allclose(vectors.mH @ vectors, torch.eye(size // 2, dtype=half.dtype), atol=1e-12)
    assert values.imag.max() < 0


def test_starts_as_published() -> None:
    """Check appendix B.1: blocks of HiPPO, B and C in their basis, a step size for each state."""
    model = S5(192, state_width=256, blocks=4)
    values, vectors = hippo_normal(64)
    assert torch.allclose(model.Lambda_re, torch.full((128,), -0.5))
    assert torch.allclose(model.Lambda_im, values.imag.repeat(4).float())
    assert model.B.shape == (128, 192, 2)
    assert model.C.shape == (192, 128, 2)
    # V^-1 B, V of orthonormal columns and real B of variance 1 / N: in the original basis its half is B's half.
    basis = torch.block_diag(*[vectors] * 4)
    back = 2 * (basis @ torch.view_as_complex(model.B.double())).real
    assert back.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert back.abs().max() <= 2 / 0.8796 * 256**-0.5 + 1e-6
    assert model.C.square().sum(-1).mean().item() == pytest.approx(2 / 256, rel=0.03)
    dt = model.log_step.exp()
    assert 0.999e-3 <= dt.min() <= dt.max() <= 0.1001
    assert dt.log().mean().item() == pytest.approx(math.log(1e-2), abs=4 * 1.33 / 128**0.5)
    assert S5(5).state_size == 6


def test_no_state_grows() -> None:
    """Clip real parts that training has made positive to -1e-4, unless clip_eigs is off."""
    x = torch.ones(1, 3000, 4)
    for clip, is_bounded in ((True, True), (False, False)):
        model = S5(4, clip_eigs=clip, dt_min=0.1, dt_max=0.1)
        with torch.no_grad():
            model.Lambda_re.fill_(0.5)
        assert bool(model.scan(x)[1].abs().max() < 1e6) == is_bounded


def test_expm1_keeps_its_digits() -> None:
    x = -torch.logspace(-12, 2, 200, dtype=torch.float64)
    assert torch.allclose(expm1(x), torch.expm1(x), rtol=1e-14)
    assert torch.allclose(expm1(x.float()), torch.expm1(x.float().double()).float(), rtol=5e-7)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"state_width=6 must be a multiple of 2 \* blocks = 4"):
        S5(WIDTH, state_width=6, blocks=2)
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        S5(WIDTH, blocks=0)
