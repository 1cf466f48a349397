"""Mamba against an independent implementation (mambapy) on the same weights, and its published initialisation.

Shapes: B batch, T time, D width, H inner width, N states of a channel.
"""

import math

import pytest
import torch
from cell_peers.pair import WIDTH
from cell_peers.released import mamba as mambapy_block
from contract import assert_near
from torch import Tensor

from minrl.cells import mamba
from minrl.cells.mamba import Mamba
from minrl.scan import without_fused_kernels

STEPS = 70


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_agrees_with_mambapy(dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs and input gradients over a sequence, and outputs and both states step by step."""
    pytest.importorskip("mambapy")
    pair = mambapy_block(dtype)
    peer, model = pair.peer, pair.cell
    x = torch.randn(3, STEPS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, STEPS, WIDTH, dtype=dtype)
    y, last = model.scan(x)
    wanted = pair.run(x)
    assert_near(y, wanted.double(), tolerance, "y")
    (dx,) = torch.autograd.grad((y * weight).sum(), x)
    (dx_wanted,) = torch.autograd.grad((wanted * weight).sum(), x)
    assert_near(dx, dx_wanted.double(), tolerance, "dx")

    inner = 2 * WIDTH
    state, cache = model.initial_state(3), (None, torch.zeros(3, inner, 3, dtype=dtype))
    for t in range(STEPS):
        y_t, state = model.step(x[:, t], state)
        wanted_t, cache = peer.step(x[:, t], cache)
        assert_near(y_t, wanted_t.double(), tolerance, f"step {t}")
    h, recent = cache
    assert_near(state, torch.cat([recent.mT.flatten(1), h.flatten(1)], dim=1).double(), tolerance, "state")
    assert_near(last, state.double(), tolerance, "last")


def test_starts_as_published() -> None:
    """Check sections 3.6 and E.2 of arXiv 2312.00752: A, D, step sizes log-uniform in [0.001, 0.1], shapes."""
    model = Mamba(512)
    assert model.in_proj.weight.shape == (2048, 512)
    assert model.x_proj.weight.shape == (32 + 16 + 16, 1024)
    assert model.conv.weight.shape == (4, 1024)
    assert torch.allclose(-model.A_log.exp(), -torch.arange(1.0, 17.0).expand(1024, 16))
    assert torch.equal(model.D, torch.ones(1024))
    step = torch.nn.functional.softplus(model.dt_proj.bias)
    assert step.min() >= 0.999e-3
    assert step.max() <= 0.1001
    # The logarithm of a log-uniform number has its mean in the middle; 1024 draws put it within 0.17.
    assert step.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.17)
    assert model.dt_proj.weight.abs().max() <= 32**-0.5
    assert Mamba(100).dt_proj.in_features == 7
    assert model.state_size == 3 * 1024 + 1024 * 16


def test_pieces_are_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recompute long sequences piece by piece without changing outputs or gradients."""
    model = Mamba(WIDTH).double()
    x = torch.randn(2, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(2, STEPS) < 0.1

    def run(piece: int) -> list[Tensor]:
        monkeypatch.setattr(mamba, "_PIECE", piece)
        with without_fused_kernels():  # kernels take no pieces
            y, last = model.scan(x, None, reset)
            return [y, last, *torch.autograd.grad(y.square().sum() + last.sum(), [x, *model.parameters()])]

    for actual, wanted in zip(run(16), run(STEPS), strict=True):
        assert_near(actual, wanted, 1e-12, "pieces")


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="state_width and dt_rank must be at least 1, got 0 and 2"):
        Mamba(WIDTH, state_width=0)
    with pytest.raises(ValueError, match="at least 2 taps, got 1"):
        Mamba(WIDTH, conv_width=1)
