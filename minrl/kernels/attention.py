"""Attention by torch's fused kernels, with the derivatives that they lack.

Shapes: B batch, H heads, Q queries, K keys, E features of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from minrl.kernels.differentiable import gradients_of
from minrl.kernels.guard import gradients_are_differentiated, is_unwatched, under_transform


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Attend from queries (B, H, Q, E) to keys and values (B, H, K, E) where `mask` (B, 1, Q, K) is True.

    Forward mode, torch.func and, on a CPU, second derivatives run in torch's plain operations. On a GPU second
    derivatives need `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` around the forward pass.
    """
    if under_transform():
        return _in_plain_operations(query, key, value, mask, dropout)
    # Torch's kernel for a CPU takes no dropout: its plain operations run there already.
    if query.is_cpu and not dropout and torch.is_grad_enabled() and is_unwatched():
        y: Tensor = _Attention.apply(query, key, value, mask)  # type: ignore[no-untyped-call]
        return y
    return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)


def _in_plain_operations(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float = 0.0) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        with torch.enable_grad():  # a graph of this operation alone, for the kernel of its backward pass
            query, key, value = (part.detach().requires_grad_() for part in (query, key, value))
            ctx.leaves, ctx.y = (query, key, value), F.scaled_dot_product_attention(query, key, value, mask)
        return ctx.y.detach()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors  # torch refuses here where one was changed in place
        if gradients_are_differentiated(*gradients):
            return tuple(gradients_of(_in_plain_operations, inputs, ctx.needs_input_grad, gradients))
        return *torch.autograd.grad(ctx.y, ctx.leaves, gradients, retain_graph=True), None
