"""The compiled output of an mLSTM against torch's operations in float64, and its derivatives against differences.

Shapes: B batch, T time, H heads of E features, D = H * E.
"""

import pytest
import torch
from contract import assert_near
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from minrl.kernels.gated_norm import reference
from minrl.kernels.gated_norm.cpu import gated_norm

pytest.importorskip("numba")

# Odd ones, more steps than a block of sums, a head of one feature.
SIZES = ((2, 9, 3, 5), (1, 70, 2, 64), (3, 1, 1, 1))


def drawn(batch: int, steps: int, heads: int, size: int) -> list[Tensor]:
    """Return y, unit, mixed, gate, scale and skip in float64, rounded to float32."""
    torch.manual_seed(size)
    y, unit = torch.randn(batch, steps, heads, size + 1), torch.randn(batch, steps, heads)
    mixed, gate = torch.randn(2, batch, steps, heads * size)
    return [x.double() for x in (2 * y, unit, mixed, 3 * gate, torch.randn(heads * size), torch.randn(heads * size))]


def with_gradients(run: object, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    leaves = [x.to(dtype).requires_grad_(i != 1) for i, x in enumerate(inputs)]  # the unit takes none
    out = run(*leaves)  # type: ignore[operator]
    out = out[0] if isinstance(out, tuple) else out
    torch.manual_seed(1)
    loss = (out * torch.randn(out.shape, dtype=torch.float64).to(dtype)).sum()
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    return [out, *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_it_is_that_of_torch(size: tuple[int, int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    inputs = drawn(*size)
    wanted = with_gradients(reference.gated_norm, inputs, torch.float64)
    for number, (a, b) in enumerate(zip(with_gradients(gated_norm, inputs, dtype), wanted, strict=True)):
        assert_near(a, b, tolerance, f"{number}")


def test_its_derivatives_are_its_differences() -> None:
    inputs = [x.requires_grad_(i != 1) for i, x in enumerate(drawn(2, 2, 2, 3))]
    assert gradcheck(lambda *x: gated_norm(*x)[0], inputs)
    assert gradgradcheck(lambda *x: gated_norm(*x)[0], inputs)


def test_normaliser_and_norm_by_hand() -> None:
    """Check two features, q n below 1 in units of exp(0): h = y / 1, normalised to -1 and 1, gate, scale and skip."""
    y = torch.tensor([[[[3.0, 7.0, 0.5]]]], dtype=torch.float64)
    unit, zeros = torch.zeros(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64)
    scale, skip = torch.tensor([0.5, -0.5], dtype=torch.float64), torch.tensor([2.0, 0.0], dtype=torch.float64)
    (out,) = gated_norm(y, unit, zeros + 10.0, zeros + 1.0, scale, skip)
    wanted = torch.tensor([-1.5 + 20.0, 0.5], dtype=torch.float64) * torch.sigmoid(torch.tensor(1.0).double())
    assert_near(out.flatten(), wanted, 1e-5, "by hand")
