"""The LSTM on a CPU as one node of the autograd graph: one compiled loop over time forward, one backward.

The products over all steps at once, with the input's weights and for the weights' gradients, are torch's.

Shapes: B batch, T time, D width of the input, H width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minrl.kernels.differentiable import gradients_of
from minrl.kernels.guard import gradients_are_differentiated
from minrl.kernels.lstm import reference
from minrl.kernels.recurrence import Tensors, argument, contiguous, flat, like, optional, run_rows, takes

__all__ = ["layer_in_torch", "lstm_layer", "takes"]


def lstm_layer(
    x: Tensor, weights: Sequence[Tensor], state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `minrl.cells.lstm.lstm_layer`."""
    if torch.is_grad_enabled():
        h, last = _Layer.apply(x, state, reset, *weights)  # type: ignore[no-untyped-call]
    else:
        h, last, _ = _forward(_gates(x, *weights), weights[1], state, reset, keep=False)
    return h, last


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor | None, reset: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        h, last, kept = _forward(_gates(x, *weights), weights[1], state, reset, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(x, state, reset, *weights, *kept)
        ctx.set_materialize_grads(False)
        return h, last

    @staticmethod
    def backward(ctx: Any, dh: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.needs_input_grad)
        inputs, kept = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if gradients_are_differentiated(dh, dlast):
            return tuple(gradients_of(layer_in_torch, inputs, ctx.needs_input_grad, (dh, dlast)))
        x, _, _, input_weight, *_ = inputs
        of_x, _, _, of_input_weight, of_weight, *of_biases = ctx.needs_input_grad
        dgates, before, dstate = _backward(kept, dh, dlast)
        rows = flat(dgates)
        return (
            (rows @ input_weight).view(x.shape) if of_x else None,
            dstate,
            None,
            rows.t() @ flat(x) if of_input_weight else None,
            rows.t() @ flat(before) if of_weight else None,
            *(rows.sum(0) if of_bias else None for of_bias in of_biases),
        )


def layer_in_torch(x: Tensor, state: Tensor | None, reset: Tensor | None, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `lstm_layer` in torch's operations, which can be differentiated further."""
    return reference.lstm_scan(_gates(x, *weights), weights[1], state, reset)


def _gates(x: Tensor, input_weight: Tensor, weight: Tensor, *biases: Tensor) -> Tensor:
    """Compute W_ih x + b_ih + b_hh, (B, T, D) -> (B, T, 4H)."""
    rows = torch.addmm(biases[0] + biases[1], flat(x), input_weight.t()) if biases else flat(x) @ input_weight.t()
    return rows.view(*x.shape[:2], -1)


def _forward(
    gates: Tensor, weight: Tensor, state: Tensor | None, reset: Tensor | None, *, keep: bool
) -> tuple[Tensor, Tensor, Tensors]:
    """Compute h (B, T, H), the last state (B, 2H) and the tensors for the backward pass.

    The gates (B, T, 4H) are mapped in place.
    """
    from minrl.kernels.lstm import cpu_loops as loops  # it imports numba

    batch, steps, wide = gates.shape
    width = wide // 4
    weight = argument("weight", weight, (wide, width), gates.dtype)
    state = optional("state", state, (batch, 2 * width), gates.dtype)
    reset = optional("reset", reset, (batch, steps), torch.bool)
    h, last = gates.new_empty(batch, steps, width), gates.new_empty(batch, 2 * width)
    cells = torch.empty_like(h) if keep else None
    turned = gates.new_empty(width, wide + loops.MARGIN)
    loops.transpose_weights()(weight.data_ptr(), turned.data_ptr(), wide, width, like(h))
    _run(loops.forward(), (gates, turned, state, reset, h, last, cells), h)
    return h, last, (weight, state, reset, h, gates, cells)


def _backward(kept: Sequence[Tensor], dh: Tensor | None, dlast: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradient to the gates (B, T, 4H), h_{t-1} as step t saw it (B, T, H), the gradient to the state (B,
    2H)."""
    from minrl.kernels.lstm import cpu_loops as loops

    _, state, _, h, gates, _ = kept
    dgates, before = torch.empty_like(gates), torch.empty_like(h)
    dstate = None if state is None else torch.empty_like(state)
    _run(loops.backward(), (*kept, *contiguous(dh, dlast), dgates, dstate, before), h)
    return dgates, before, dstate


def _run(kernel: Callable[..., None], tensors: Sequence[Tensor | None], h: Tensor) -> None:
    batch, steps, width = h.shape
    run_rows(kernel, tensors, batch, 4 * h.numel() * width, batch, steps, width, like(h))
