"""Embedding of a backbone's training inputs on a CPU: a sum of linear layers and dropout, as one autograd node.

It saves the layers' inputs, a few columns, and neither the layers' outputs nor a mask.

Shapes: D width, N rows, K columns of all inputs together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minrl.kernels.guard import gradients_are_differentiated, runs_alone
from minrl.kernels.matmul import linear
from minrl.kernels.scan import cpu

Part = tuple[nn.Linear, Tensor]


def embedded(parts: Sequence[Part], dropout: nn.Dropout) -> Tensor:
    """Compute dropout of the sum of layers, each of its own input: (..., k) each -> (..., D)."""
    modules = [dropout, *(layer for layer, _ in parts)]
    tensors = [tensor for layer, x in parts for tensor in (x, layer.weight)]
    if dropout.training and _fits(modules, tensors) and not any(x.requires_grad for _, x in parts):
        x = torch.cat([x.reshape(-1, x.shape[-1]) for _, x in parts], dim=1)
        sizes = [layer.in_features for layer, _ in parts]
        weights = [weight for layer, _ in parts for weight in (layer.weight, layer.bias)]
        token: Tensor = _Embedding.apply(_noise(dropout, x), sizes, x, *weights)  # type: ignore[no-untyped-call]
        return token.view(*parts[0][1].shape[:-1], token.shape[-1])
    total: Any = 0
    for number, (layer, x) in enumerate(parts):
        total = total + layer(x) if number else layer(x)
    return dropped(dropout, total)


def dropped(dropout: nn.Dropout, x: Tensor) -> Tensor:
    """Compute `dropout(x)`, without saving a mask if the kernels support it."""
    if not dropout.training or not dropout.p or not x.requires_grad or not _fits([dropout], [x]):
        kept: Tensor = dropout(x)
        return kept
    fallen: Tensor = _Dropout.apply(_noise(dropout, x), x)  # type: ignore[no-untyped-call]
    return fallen


def _fits(modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> bool:
    """Return True if module types are exact, without hooks, of one dtype and on a CPU."""
    if not torch.is_grad_enabled() or not runs_alone() or not cpu.takes(tensors[0]):
        return False
    if not all(type(m) in (nn.Linear, nn.Dropout) and not _is_hooked(m) for m in modules):
        return False
    rates = [m.p for m in modules if isinstance(m, nn.Dropout)]
    kinds = {(type(x) in (Tensor, nn.Parameter), x.is_cpu, x.dtype) for x in tensors}
    return max(rates) < 1 and kinds == {(True, True, tensors[0].dtype)}


def _is_hooked(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _noise(dropout: nn.Dropout, x: Tensor) -> Any:
    from minrl.kernels.backbone.dropout import draw  # it imports numba

    return draw((dropout.p,), np.float64 if x.dtype == torch.float64 else np.float32)[0][0] if dropout.p else None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, noise: Any, sizes: list[int], x: Tensor, *weights: Tensor | None) -> Tensor:
        biases = [bias for bias in weights[1::2] if bias is not None]
        bias = torch.stack(biases).sum(0) if biases else None
        y = linear(x, torch.cat([weight for weight in weights[::2] if weight is not None], dim=1), bias)
        ctx.save_for_backward(x)
        ctx.noise, ctx.sizes = noise, sizes
        return _dropped(noise, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        dy = _dropped_gradient(ctx.noise, gradients[0].contiguous())
        dweights = torch.mm(x.t(), dy).split(ctx.sizes)  # the transposed product of a thin matrix takes twice as long
        dbias, needed = dy.sum(0), ctx.needs_input_grad[3:]
        of_weights: list[Tensor | None] = []
        for number, dweight in enumerate(dweights):
            # Each parameter has its own gradient tensor, as gradients are changed in place.
            of_weights += [dweight.t().contiguous() if needed[2 * number] else None]
            of_weights += [dbias.clone() if needed[2 * number + 1] else None]
        return None, None, None, *of_weights


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, noise: Any, x: Tensor) -> Tensor:
        ctx.noise = noise
        return _dropped(noise, x.reshape(-1, x.shape[-1])).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy = gradients[0]
        return None, _dropped_gradient(ctx.noise, dy.reshape(-1, dy.shape[-1])).view(dy.shape)


def _dropped_gradient(noise: Any, dy: Tensor) -> Tensor:
    """Compute the gradient (N, D) to the input of `_dropped`."""
    if noise is None or not gradients_are_differentiated(dy):
        return _dropped(noise, dy)
    return dy * _dropped(noise, torch.ones_like(dy).detach())


def _dropped(noise: Any, x: Tensor) -> Tensor:
    """Compute dropout of x (N, D); `noise` may be None."""
    if noise is None:
        return x
    from minrl.kernels.backbone.dropout import drop  # it imports numba

    return drop(noise, x.contiguous())
