"""Backbones with random weights, and comparisons of their compiled scan with torch's operations.

Shapes: B batch, T time, D width, S state size.
"""

from typing import Any

import torch
from torch import Tensor

from minrl.backbone import Backbone, compiled_scan
from minrl.scan import without_fused_kernels


class Plain(Backbone):
    """Backbone in torch's operations, as any subclass of `Backbone` is."""


def backbone(width: int = 24, cell: str = "mingru", depth: int = 2, **options: Any) -> Backbone:
    """Build a backbone in double precision whose weights all differ from their initial values."""
    torch.manual_seed(0)
    model = Backbone(width, depth, cell, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def plain(model: Backbone) -> Backbone:
    """Return the model with the same weights in torch's operations."""
    twin = Plain.__new__(Plain)
    twin.__dict__ = model.__dict__
    return twin


def inputs(model: Backbone, batch: int = 3, steps: int = 70) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x (B, T, D), state (B, S) and resets (B, T); the first row has none at step 0."""
    x, state = torch.randn(batch, steps, model.width), torch.randn(batch, model.state_size)
    reset = torch.rand(batch, steps) < 0.1
    reset[:1, 0] = False
    dtype = next(model.parameters()).dtype
    return x.to(dtype), state.to(dtype), reset


def is_fused(model: Backbone, *arguments: Tensor | None) -> bool:
    return compiled_scan.scan(model, *arguments) is not None


def everything(model: Backbone, x: Tensor, state: Tensor | None, reset: Tensor | None) -> list[Tensor]:
    """Return outputs, last state, and the gradients of a random loss of both to x, state and all weights."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, state) if tensor is not None]
    y, last = model.scan(leaves[0], None if state is None else leaves[1], reset)
    torch.manual_seed(1)
    loss = (y * torch.randn(y.shape, dtype=torch.float64).to(y.dtype)).sum()
    loss = loss + (last * torch.randn(last.shape, dtype=torch.float64).to(y.dtype)).sum()
    return [y, last, *torch.autograd.grad(loss, [*leaves, *model.parameters()])]


def assert_near(actual: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    """Compare relative to the largest element of each, or to 1."""
    for a, b in zip(actual, wanted, strict=True):
        assert a.shape == b.shape
        if b.numel():
            assert (a.double() - b.double()).abs().max() <= tolerance * b.double().abs().max().clamp(min=1)


def assert_as_torch_in_double(model: Backbone, x: Tensor, state: Tensor | None, reset: Tensor | None) -> None:
    assert is_fused(model, x, state, reset)
    assert_near(everything(model, x, state, reset), exactly(model, x, state, reset), 1e-10)


def exactly(model: Backbone, x: Tensor, state: Tensor | None, reset: Tensor | None) -> list[Tensor]:
    """Return the same as `everything` in float64 and torch's operations."""
    with without_fused_kernels():
        return everything(plain(model.double()), x.double(), None if state is None else state.double(), reset)


def assert_as_torch(model: Backbone, x: Tensor, state: Tensor | None, reset: Tensor | None) -> None:
    """Compare in float32 to 1e-5 of float64's; compiling each form for float64 too takes seconds."""
    model.float()
    x, state = x.float(), None if state is None else state.float()
    assert is_fused(model, x, state, reset)
    actual = everything(model, x, state, reset)
    assert all(tensor.dtype == torch.float32 for tensor in actual)
    assert_near(actual, exactly(model, x, state, reset), 1e-5)
