"""The embedding of training inputs on a CPU, against torch's own operations."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minrl.models.embedding import Part, dropped, embedded

pytest.importorskip("numba")


def parts(dtype: torch.dtype, bias: bool = True) -> list[Part]:
    """Build three layers of different inputs into width 32."""
    torch.manual_seed(0)
    sizes = 11, 1, 3
    layers = [nn.Linear(k, 32, bias=bias or k > 1).to(dtype) for k in sizes]
    return [(layer, torch.randn(4, 50, k, dtype=dtype)) for layer, k in zip(layers, sizes, strict=True)]


def of_all(given: list[Part]) -> list[Tensor]:
    return [p for layer, _ in given for p in layer.parameters()]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sum_of_layers(dtype: torch.dtype, bias: bool) -> None:
    """Compare the sum and each parameter's gradient with torch's, without dropout."""
    given, dropout = parts(dtype, bias), nn.Dropout(0.0)
    ours, theirs = embedded(given, dropout), sum(layer(x) for layer, x in given)
    assert isinstance(theirs, Tensor)
    assert type(ours.grad_fn).__name__ == "ViewBackward0"
    direction = torch.randn_like(ours)
    gradients = [torch.autograd.grad(y, of_all(given), direction) for y in (ours, theirs)]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    assert len({gradient.untyped_storage().data_ptr() for gradient in gradients[0]}) == len(gradients[0])


def test_dropout_of_the_sum() -> None:
    """Check the share of zeros, the scale of the rest, and the gradients of the rest."""
    given, dropout = parts(torch.float64), nn.Dropout(0.3)
    whole = sum(layer(x) for layer, x in given)
    assert isinstance(whole, Tensor)
    y = embedded(given, dropout)
    stays = (y != 0).double() / 0.7
    assert abs(1 - (y != 0).double().mean().item() - 0.3) < 5 * (0.3 * 0.7 / y.numel()) ** 0.5
    assert torch.allclose(y, whole * stays)
    direction = torch.randn_like(y)
    pairs = zip(
        torch.autograd.grad(y, of_all(given), direction),
        torch.autograd.grad(whole * stays, of_all(given), direction),
        strict=True,
    )
    assert all(torch.allclose(a, b) for a, b in pairs)


def test_dropout_alone() -> None:
    x, dropout = torch.randn(3, 40, 16, requires_grad=True), nn.Dropout(0.5)
    y = dropped(dropout, x)
    assert torch.allclose(y, x * (y != 0) * 2)
    direction = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, direction)
    assert torch.allclose(gradient, direction * (y != 0) * 2)


def test_seeds_and_evaluation() -> None:
    """Repeat the mask for equal seeds; use torch's operations for evaluation, hooks and gradients to inputs."""
    given, dropout = parts(torch.float32), nn.Dropout(0.5)

    def output(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return embedded(given, dropout)

    assert torch.equal(output(0), output(0))
    assert not torch.equal(output(0), output(1))
    seen: list[Any] = []
    handle = given[0][0].register_forward_hook(lambda *arguments: seen.append(arguments))
    output(0)
    handle.remove()
    assert len(seen) == 1
    given[0][1].requires_grad_()
    (gradient,) = torch.autograd.grad(output(0).sum(), given[0][1])
    assert gradient.abs().sum() > 0
    dropout.eval()
    plain = given[0][0](given[0][1]) + given[1][0](given[1][1]) + given[2][0](given[2][1])
    assert torch.equal(output(0), plain)
