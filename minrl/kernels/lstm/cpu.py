"""The LSTM on a CPU as one node of the autograd graph: one compiled loop over time forward, one backward.

The products over all steps at once, with the input's weights and for the weights' gradients, are torch's.

Shapes: B batch, T time, D width of the input, H width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minrl.kernels.differentiable import gradients_of
from minrl.kernels.guard import gradients_are_differentiated, runs_alone
from minrl.kernels.jit.threads import share_items
from minrl.kernels.lstm import reference
from minrl.kernels.scan import cpu

# Below this many multiply-adds a second thread costs more than it saves.
_WORK_PER_THREAD = 1 << 21

_Kept = tuple[Tensor | None, ...]


def takes(x: Tensor) -> bool:
    """Return True if the kernel takes inputs like `x`: plain tensors, neither recorded nor transformed."""
    return type(x) in (Tensor, torch.nn.Parameter) and runs_alone() and cpu.takes(x)


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
        rows = _flat(dgates)
        return (
            (rows @ input_weight).view(x.shape) if of_x else None,
            dstate,
            None,
            rows.t() @ _flat(x) if of_input_weight else None,
            rows.t() @ _flat(before) if of_weight else None,
            *(rows.sum(0) if of_bias else None for of_bias in of_biases),
        )


def layer_in_torch(x: Tensor, state: Tensor | None, reset: Tensor | None, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `lstm_layer` in torch's operations, which can be differentiated further."""
    return reference.lstm_scan(_gates(x, *weights), weights[1], state, reset)


def _gates(x: Tensor, input_weight: Tensor, weight: Tensor, *biases: Tensor) -> Tensor:
    """Compute W_ih x + b_ih + b_hh, (B, T, D) -> (B, T, 4H)."""
    rows = torch.addmm(biases[0] + biases[1], _flat(x), input_weight.t()) if biases else _flat(x) @ input_weight.t()
    return rows.view(*x.shape[:2], -1)


def _forward(
    gates: Tensor, weight: Tensor, state: Tensor | None, reset: Tensor | None, *, keep: bool
) -> tuple[Tensor, Tensor, _Kept]:
    """Compute h (B, T, H), the last state (B, 2H) and the tensors for the backward pass.

    The gates (B, T, 4H) are mapped in place.
    """
    from minrl.kernels.lstm import cpu_loops as loops  # it imports numba

    batch, steps, wide = gates.shape
    width = wide // 4
    weight = _argument("weight", weight, (wide, width), gates.dtype)
    state = None if state is None else _argument("state", state, (batch, 2 * width), gates.dtype)
    reset = None if reset is None else _argument("reset", reset, (batch, steps), torch.bool)
    h, last = gates.new_empty(batch, steps, width), gates.new_empty(batch, 2 * width)
    cells = torch.empty_like(h) if keep else None
    turned = gates.new_empty(width, wide + loops.MARGIN)
    loops.turn()(weight.data_ptr(), turned.data_ptr(), width, _like(h))
    _run(loops.forward(), (gates, turned, state, reset, h, last, cells), h)
    return h, last, (weight, state, reset, h, gates, cells)


def _backward(kept: Sequence[Tensor], dh: Tensor | None, dlast: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradient to the gates (B, T, 4H), h_{t-1} as step t saw it (B, T, H), the gradient to the state (B,
    2H)."""
    from minrl.kernels.lstm import cpu_loops as loops

    _, state, _, h, gates, _ = kept
    dgates, before = torch.empty_like(gates), torch.empty_like(h)
    dstate = None if state is None else torch.empty_like(state)
    dh, dlast = None if dh is None else dh.contiguous(), None if dlast is None else dlast.contiguous()
    _run(loops.backward(), (*kept, dh, dlast, dgates, dstate, before), h)
    return dgates, before, dstate


def _argument(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return `x` contiguous; raise ValueError for a shape beyond which the kernel would read."""
    if x.shape != shape or x.dtype != dtype or not x.is_cpu:
        got = f"{x.dtype} {tuple(x.shape)} on {x.device}"
        raise ValueError(f"{name} must be {dtype} of shape {shape} on the CPU, got {got}")
    return x.contiguous()


def _flat(x: Tensor) -> Tensor:
    """Compute (B, T, D) -> (BT, D)."""
    return x.reshape(-1, x.shape[2])


def _like(x: Tensor) -> Any:
    """Return a number in the precision of `x`."""
    return np.float64(0) if x.dtype == torch.float64 else np.float32(0)


def _run(kernel: Callable[..., None], tensors: Sequence[Tensor | None], h: Tensor) -> None:
    """Share the batch rows of h (B, T, H) among as many threads as torch has."""
    batch, steps, width = h.shape
    addresses = [0 if x is None else x.data_ptr() for x in tensors]
    sizes = batch, steps, width, _like(h)
    share_items(
        lambda thread, first, end: kernel(*addresses, first, end, *sizes),
        batch,
        4 * h.numel() * width,
        _WORK_PER_THREAD,
    )
