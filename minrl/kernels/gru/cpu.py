"""The GRU on a CPU as one node of the autograd graph: one compiled loop over time forward, one backward.

The products over all steps at once, with the input's weights and for the weights' gradients, are torch's.

Shapes: B batch, T time, H width.
"""

import torch
from torch import Tensor

from minrl.kernels.gru import reference
from minrl.kernels.recurrence import Recurrence, Saved, Tensors, argument, contiguous, flat, like, optional, run_rows


def _forward(
    gates: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, reset: Tensor | None, *, keep: bool
) -> tuple[tuple[Tensor, ...], Tensors]:
    from minrl.kernels.gru import cpu_loops as loops  # it imports numba
    from minrl.kernels.lstm.cpu_loops import MARGIN, transpose_weights

    batch, steps, wide = gates.shape
    width = wide // 3
    gates = gates.contiguous()
    weight = argument("weight", weight, (wide, width), gates.dtype)
    bias = optional("bias", bias, (wide,), gates.dtype)
    state = optional("state", state, (batch, width), gates.dtype)
    reset = optional("reset", reset, (batch, steps), torch.bool)
    h, last = gates.new_empty(batch, steps, width), gates.new_empty(batch, width)
    # Reset gate | update gate | the state's part of the candidate | candidate, of all steps or of the current one.
    mapped = gates.new_empty(batch, steps if keep else 1, 4 * width)
    turned = gates.new_empty(width, wide + MARGIN)
    transpose_weights()(weight.data_ptr(), turned.data_ptr(), wide, width, like(h))
    tensors = gates, turned, bias, state, reset, h, last, mapped
    run_rows(loops.forward(), tensors, batch, 3 * h.numel() * width, batch, steps, mapped.shape[1], width, like(h))
    return (h, last), (weight, state, reset, h, mapped) if keep else ()


def _backward(saved: Saved, dh: Tensor | None, dlast: Tensor | None) -> Tensors:
    from minrl.kernels.gru import cpu_loops as loops

    _, state, _, h, _ = saved.kept
    batch, steps, width = h.shape
    # Gradients to the input's and to the state's part of the gates: they differ in the candidate.
    dgates, dpre = h.new_empty(batch, steps, 3 * width), h.new_empty(batch, steps, 3 * width)
    before = torch.empty_like(h)  # h_{t-1} after resets
    dstate = None if state is None else torch.empty_like(state)
    tensors = *saved.kept, *contiguous(dh, dlast), dgates, dpre, dstate, before
    run_rows(loops.backward(), tensors, batch, 3 * h.numel() * width, batch, steps, width, like(h))
    dweight = flat(dpre).t() @ flat(before) if saved.needed[1] else None
    dbias = flat(dpre).sum(0) if saved.needed[2] else None
    return dgates, dweight, dbias, dstate, None


# Computes as `reference.gru_scan` does.
gru_scan = Recurrence(_forward, _backward, reference.gru_scan)
