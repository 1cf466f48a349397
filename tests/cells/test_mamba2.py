"""Mamba-2 against an independent implementation (transformers) with equal weights, and its initialisation.

Shapes: B batch, T time, D width, H heads.
"""

import math

import pytest
import torch
from cell_peers.pair import WIDTH
from cell_peers.transformers import mamba2
from contract import WAYS, assert_near
from torch import Tensor
from torch.nn import functional as F

from minrl.cells import matrix_memory
from minrl.cells.mamba2 import Mamba2
from minrl.scan import without_fused_kernels

BATCH, STEPS = 3, 70


@pytest.mark.parametrize("way", WAYS)
def test_agrees_with_transformers(way: str) -> None:
    """Compare outputs and gradients of input and weights; its sums are in float32, so ours are too."""
    pytest.importorskip("transformers")
    pair = mamba2()
    peer, model = pair.peer, pair.cell
    x = torch.randn(BATCH, STEPS, WIDTH, requires_grad=True)
    weight = torch.randn(BATCH, STEPS, WIDTH)
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    y, _ = WAYS[way](model, x, model.initial_state(BATCH), reset)
    wanted = pair.run(x)
    assert_near(y, wanted.double(), 1e-5, "y")
    names = ["in_proj.weight", "dt_bias", "A_log", "D", "norm.weight", "out_proj.weight"]
    of_peer = torch.autograd.grad((wanted * weight).sum(), [x, *map(peer.get_parameter, names)])
    ours = torch.autograd.grad((y * weight).sum(), [x, *map(model.get_parameter, names)])
    for name, actual, gradient in zip(["x", *names], ours, of_peer, strict=True):
        assert_near(actual, gradient.double(), 1e-5, f"d {name}")


def test_the_recurrence_of_the_paper() -> None:
    """Compute section 2.1 with the scalar decay of section 5, one step after the other in float64."""
    q, k, v = (torch.randn(BATCH, STEPS, 2, size, dtype=torch.float64) for size in (3, 3, 5))
    log_decay = -3 * torch.rand(BATCH, STEPS, 2, dtype=torch.float64) ** 4
    reset = torch.rand(BATCH, STEPS) < 0.1
    first = torch.randn(BATCH, 2, 3, 5, dtype=torch.float64)
    y, last, _ = matrix_memory.matrix_memory(q, k, v, log_decay, None, matrix_memory.Memory(first), reset)
    state = first
    for t in range(STEPS):
        state = state.masked_fill(reset[:, t, None, None, None], 0.0) * log_decay[:, t, :, None, None].exp()
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        assert_near(y[:, t], torch.einsum("bhk,bhkv->bhv", q[:, t], state), 1e-12, f"step {t}")
    assert_near(last.matrix, state, 1e-12, "last")


def test_chunks_are_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Mamba2(WIDTH).double()
    x = torch.randn(2, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(2, STEPS) < 0.1

    def run(chunk: int) -> list[Tensor]:
        monkeypatch.setattr(matrix_memory, "CHUNK", chunk)
        with without_fused_kernels():  # kernels have chunks of their own
            y, last = model.scan(x, None, reset)
            return [y, last, *torch.autograd.grad(y.square().sum() + last.sum(), [x, *model.parameters()])]

    for actual, wanted in zip(run(8), run(STEPS), strict=True):
        assert_near(actual, wanted, 1e-11, "chunks")


def test_starts_as_published() -> None:
    """Check the sizes of section 7; A uniform in [-16, -1], step sizes log-uniform in [0.001, 0.1]."""
    model = Mamba2(512, state_width=128, head_width=2)
    assert model.in_proj.weight.shape == (2 * 1024 + 2 * 128 + 512, 512)
    assert model.conv.weight.shape == (4, 1024 + 2 * 128)
    assert model.state_size == 3 * (1024 + 2 * 128) + 1024 * 128
    decay, step = model.A_log.exp(), F.softplus(model.dt_bias)
    assert 1 <= decay.min() < 1.5
    assert 15.5 < decay.max() <= 16
    assert step.min() >= 0.999e-3
    assert step.max() <= 0.1001
    # The logarithm of a log-uniform number has its mean in the middle; 512 draws put it within 0.24.
    assert step.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.24)
    assert Mamba2(48).shape == (3, 64, 32)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="must divide expand \\* width = 48, got state_width=64 and head_width=7"):
        Mamba2(WIDTH, head_width=7)
    with pytest.raises(ValueError, match="state_width must be at least 1"):
        Mamba2(WIDTH, state_width=0)
