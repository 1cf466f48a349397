"""Dropout inside the compiled blocks: share of zeros, independence of masks, gradients."""

from itertools import combinations
from typing import Any

import pytest
import torch
from block_scans import backbone, inputs, is_fused, plain
from torch import Tensor

pytest.importorskip("numba")


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_zeroes_a_share_and_scales_the_rest(rate: float, dtype: torch.dtype) -> None:
    """Draw independent masks for other keys, rows and columns."""
    from minrl.kernels.backbone.dropout import draw, drop_and_add, drop_gradient

    torch.manual_seed(0)
    kind = torch.zeros(0, dtype=dtype).numpy().dtype.type
    ones, masks = torch.ones(500, 64, dtype=dtype), []
    for noise in [noise for pair in draw((rate, rate), kind) for noise in pair]:
        assert noise is not None
        out = torch.empty_like(ones)
        drop_and_add(noise, ones, ones, out)
        branch = out - 1
        assert torch.equal(drop_gradient(noise, ones), branch)
        kept = branch != 0
        assert torch.allclose(branch[kept], torch.full_like(branch[kept], 1 / (1 - rate)))
        assert abs(1 - kept.double().mean().item() - rate) < 5 * (rate * (1 - rate) / kept.numel()) ** 0.5
        tail = torch.empty_like(ones[100:])
        drop_and_add(noise, ones[100:], ones[100:], tail, start=100)
        assert torch.equal(tail, out[100:])
        masks += [kept[:-1].double(), kept[1:].double(), kept[:-1].roll(1, dims=1).double()]
    for a, b in combinations(masks, 2):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 5 / a.numel() ** 0.5


# Length of the step, and the error allowed as a share of what a step along the gradient would change. One of a hundred
# numbers makes a tenth in a random direction.
PRECISIONS = [(torch.float32, 3e-3, 0.02), pytest.param(torch.float64, 1e-5, 1e-6, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("dtype", "size", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("cell", ["mingru", "minlstm"])
@pytest.mark.parametrize("options", [{}, {"mlp": 0}, {"conv": 0}, {"expand": 2}])
def test_gradients_against_differences(
    options: dict[str, Any], cell: str, dtype: torch.dtype, size: float, tolerance: float
) -> None:
    """Compare the gradients of all inputs and weights with a finite difference of the loss."""
    model = backbone(6, cell, dropout=0.3, **options).to(dtype).train()
    x, state, reset = inputs(model, 2, 150)
    leaves = [x.requires_grad_(), state.requires_grad_(), *model.parameters()]
    assert is_fused(model, x, state, reset)
    direction = torch.randn_like(x)

    def loss() -> Tensor:
        torch.manual_seed(1)
        y, last = model.scan(x, state, reset)
        return (y * direction).double().sum() + last.double().square().sum()

    gradients = torch.autograd.grad(loss(), leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        step = size * torch.nn.functional.normalize(torch.randn_like(leaf), dim=None)
        with torch.no_grad():
            above = loss() if leaf.add_(step) is leaf else None
            below = loss() if leaf.sub_(2 * step) is leaf else None
            leaf.add_(step)
        assert above is not None
        assert below is not None
        error = (above - below) / 2 - (gradient * step).double().sum()
        assert error.abs() <= tolerance * size * gradient.norm()


def test_has_the_distribution_of_torch() -> None:
    """Compare means and variances of the outputs over many seeds, to five standard errors."""
    model = backbone(6, dropout=0.3).float().train()
    arguments = inputs(model, 2, 12)
    samples = []
    for version in (model, plain(model)):
        torch.manual_seed(2)
        with torch.no_grad():
            samples.append(torch.stack([version.scan(*arguments)[0] for _ in range(600)]))
    ours, theirs = samples
    error = ((ours.var(0) + theirs.var(0)) / 600).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 5 * error).all()
    assert torch.allclose(ours.std(0), theirs.std(0), rtol=0.25, atol=0.02)


def test_seeds_and_evaluation() -> None:
    model = backbone(6, dropout=0.3).float().train()
    arguments = inputs(model, 2, 30)

    def output(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.scan(*arguments)[0]

    assert torch.equal(output(0), output(0))
    assert not torch.equal(output(0), output(1))
    model.eval()
    assert torch.equal(output(0), output(1))
    model.train()
    model.blocks[0].dropout.p = 1.0
    assert not is_fused(model, *arguments)


def test_the_number_of_threads_has_no_effect() -> None:
    model = backbone(64, dropout=0.3).float().train()
    arguments = inputs(model, 8, 300)
    before = torch.get_num_threads()
    outputs = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        outputs.append(model.scan(*arguments)[0])
    torch.set_num_threads(before)
    assert torch.allclose(*outputs, rtol=1e-5, atol=1e-5)
