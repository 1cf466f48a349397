"""RG-LRU against transformers' RecurrentGemma on the same weights and the paper's equations; initialisation.

Shapes: B batch, T time, D width, H inner width.
"""

import pytest
import torch
from cell_peers.pair import WIDTH
from cell_peers.transformers import rglru
from contract import assert_near
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.rglru import RGLRU

STEPS = 70
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)


@PRECISIONS
def test_agrees_with_transformers(dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs and the gradients of inputs and all weights."""
    pytest.importorskip("transformers")
    pair = rglru(dtype)
    x = torch.randn(3, STEPS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, STEPS, WIDTH, dtype=dtype)
    wanted = pair.run(x)
    y, _ = pair.cell.scan(x)
    assert_near(y, wanted.double(), tolerance, "y")
    theirs = {name.removeprefix("rg_lru."): parameter for name, parameter in pair.peer.named_parameters()}
    ours = dict(pair.cell.named_parameters())
    wanted_dx, *of_theirs = torch.autograd.grad((wanted * weight).sum(), [x, *theirs.values()])
    dx, *of_ours = torch.autograd.grad((y * weight).sum(), [x, *(ours[name] for name in theirs)])
    assert_near(dx, wanted_dx.double(), tolerance, "dx")
    for name, gradient, exact in zip(theirs, of_ours, of_theirs, strict=True):
        exact = exact.squeeze(1).T if name == "conv_1d.weight" else exact
        assert_near(gradient, exact.double(), tolerance, name)


def as_the_paper_reads(model: RGLRU, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Compute section 2.3 without its convolution and equations 1 to 4: x (B, T, D), h (B, H), in float64."""
    of_r = torch.block_diag(*model.recurrent_gate_weight)
    of_i = torch.block_diag(*model.input_gate_weight)
    kept = torch.sigmoid(-model.recurrent_param)  # sigmoid(Lambda)
    outputs = []
    for t in range(x.shape[1]):
        u = model.linear_x(x[:, t])
        r = torch.sigmoid(u @ of_r + model.recurrent_gate_bias.flatten())
        i = torch.sigmoid(u @ of_i + model.input_gate_bias.flatten())
        a = kept ** (8 * r)
        h = a * h + torch.sqrt(1 - a**2) * (i * u)
        outputs.append(model.linear_out(h * F.gelu(model.linear_y(x[:, t]), approximate="tanh")))
    return torch.stack(outputs, dim=1), h


@PRECISIONS
def test_agrees_with_the_equations(dtype: torch.dtype, tolerance: float) -> None:
    """Start from a carried state, without the convolution."""
    model = RGLRU(WIDTH, blocks=3, conv_width=0).double()
    x, h = torch.randn(3, STEPS, WIDTH, dtype=torch.float64), torch.randn(3, WIDTH, dtype=torch.float64)
    wanted, left = as_the_paper_reads(model, x, h)
    y, last = model.to(dtype).scan(x.to(dtype), h.to(dtype))
    assert_near(y, wanted, tolerance, "y")
    assert_near(last, left, tolerance, "state")


def test_a_long_memory_keeps_its_scale_in_float32() -> None:
    """Scale the drive for decays within 1e-7 of one, where a naive 1 - a^2 is zero or wrong by half."""
    model = RGLRU(8, conv_width=0)
    with torch.no_grad():
        model.recurrent_param.copy_(torch.linspace(-20, -14, 8))
    x = torch.randn(2, 9, 8)
    drive = model._recurrence(x)[1]
    assert_near(drive, model.double()._recurrence(x.double())[1], 1e-6, "drive")
    assert drive.abs().min() > 0


@pytest.mark.parametrize("bias", [-200.0, 200.0])
def test_a_saturated_gate_has_finite_gradients(bias: float) -> None:
    model = RGLRU(8)
    nn.init.constant_(model.recurrent_gate_bias, bias)
    x = torch.randn(2, 9, 8, requires_grad=True)
    y, last = model.scan(x)
    for gradient in torch.autograd.grad(y.square().sum() + last.sum(), [x, *model.parameters()]):
        assert gradient.isfinite().all()


def test_starts_as_published() -> None:
    """Check section 2.4: sigmoid(Lambda)^c uniform in [0.9, 0.999], gates of variance one over their inputs."""
    model = RGLRU(1024)
    kept = torch.sigmoid(-model.recurrent_param.double()) ** 8
    assert 0.9 - 1e-6 <= kept.min() <= 0.901
    assert 0.998 <= kept.max() <= 0.999 + 1e-6
    assert kept.mean().item() == pytest.approx(0.9495, abs=4 * 0.099 * 0.29 / 32)
    assert model.input_gate_weight.shape == model.recurrent_gate_weight.shape == (16, 64, 64)
    for weight, inputs in (
        (model.input_gate_weight, 64),
        (model.recurrent_gate_weight, 64),
        (model.linear_x.weight, 1024),
        (model.linear_out.weight, 1024),
    ):
        assert weight.std().item() == pytest.approx(inputs**-0.5, rel=0.02)
    assert not model.recurrent_gate_bias.any()
    assert model.state_size == 3 * 1024 + 1024
    assert RGLRU(18).input_gate_weight.shape == (9, 2, 2)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"blocks must divide expand \* width = 24, got 5"):
        RGLRU(WIDTH, blocks=5)
    with pytest.raises(ValueError, match="at least 2 taps, got 1"):
        RGLRU(WIDTH, conv_width=1)
