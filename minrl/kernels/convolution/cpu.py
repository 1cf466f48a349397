"""The short causal convolution on a CPU as one node of the autograd graph: one compiled pass forward, one backward.

Shapes: B batch, T time, D width, K taps.
"""

import torch
from torch import Tensor

from minrl.kernels.backbone.convolution import causal_convolution as in_torch
from minrl.kernels.recurrence import Recurrence, Saved, Tensors, argument, contiguous, like, optional, run_rows


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None, reset: Tensor | None, *, keep: bool
) -> tuple[tuple[Tensor, ...], Tensors]:
    from minrl.kernels.convolution import cpu_loops as loops  # it imports numba

    (batch, steps, width), taps = x.shape, weight.shape[0]
    shape = batch, (taps - 1) * width
    weight = argument("weight", weight, (taps, width), x.dtype)
    bias = argument("bias", bias, (width,), x.dtype)
    recent = x.new_zeros(shape) if state is None else argument("state", state, shape, x.dtype)
    flags = optional("reset", reset, (batch, steps), torch.bool)
    flags = torch.zeros(batch, steps, dtype=torch.bool) if flags is None else flags
    x = x.contiguous()
    y, last = torch.empty_like(x), x.new_empty(shape)
    tensors = x, weight, bias, recent, flags, y, last
    run_rows(loops.forward(), tensors, batch, x.numel() * taps, batch, steps, width, taps, like(x))
    return (y, last), (x, weight, recent, flags) if keep else ()


def _backward(saved: Saved, dy: Tensor | None, dlast: Tensor | None) -> Tensors:
    from minrl.kernels.convolution import cpu_loops as loops

    x, weight, recent, _ = saved.kept
    (batch, steps, width), taps = x.shape, weight.shape[0]
    dy = torch.zeros_like(x) if dy is None else dy
    dlast = torch.zeros_like(recent) if dlast is None else dlast
    dx, drecent = torch.empty_like(x), torch.empty_like(recent)
    sums = x.new_zeros(batch, taps + 1, width)  # each row's gradients to the taps and the bias
    tensors = *saved.kept, *contiguous(dy, dlast), dx, drecent, sums
    run_rows(loops.backward(), tensors, batch, 2 * x.numel() * taps, batch, steps, width, taps, like(x))
    total = sums.sum(0)
    return dx, total[:-1], total[-1], None if saved.inputs[3] is None else drecent, None


def _in_torch(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    state = x.new_zeros(x.shape[0], (weight.shape[0] - 1) * x.shape[2]) if state is None else state
    return in_torch(x, weight, bias, state, reset)


# Computes as `minrl.kernels.backbone.convolution.causal_convolution` does.
causal_convolution = Recurrence(_forward, _backward, _in_torch)
