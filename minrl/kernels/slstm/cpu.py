"""The sLSTM on a CPU as one node of the autograd graph: one compiled loop over time forward, one backward.

Shapes: B batch, T time, H heads of E units, D = H * E.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.kernels.recurrence import Recurrence, Saved, Tensors, argument, contiguous, like, optional, run_rows
from minrl.kernels.slstm import reference


def _forward(
    gates: Tensor, weight: Tensor, state: Tensor | None, reset: Tensor | None, *, keep: bool
) -> tuple[tuple[Tensor, ...], Tensors]:
    from minrl.kernels.lstm.cpu_loops import MARGIN  # it imports numba
    from minrl.kernels.slstm import cpu_loops as loops

    batch, steps, heads, wide = gates.shape
    width = heads * wide // 4
    weight = argument("weight", weight, (heads, wide // 4, wide), gates.dtype)
    state = optional("state", state, (batch, 4 * width), gates.dtype)
    reset = optional("reset", reset, (batch, steps), torch.bool)
    h, last = gates.new_empty(batch, steps, width), gates.new_empty(batch, 4 * width)
    # exp(i - m) | exp of the kept share | tanh(z) | sigmoid(o) of each head, of all steps or of the current one.
    mapped = gates.new_empty(batch, steps if keep else 1, 4 * width)
    cells = gates.new_empty(batch, steps, 3 * width) if keep else None  # c | n | sigmoid(-f)
    tensors = gates.contiguous(), F.pad(weight, (0, MARGIN)), state, reset, h, last, mapped, cells
    sizes = batch, steps, mapped.shape[1], heads, wide // 4
    run_rows(loops.forward(), tensors, batch, h.numel() * wide, *sizes, like(h))
    return (h, last), (weight, state, reset, h, mapped, cells) if keep else ()


def _backward(saved: Saved, dh: Tensor | None, dlast: Tensor | None) -> Tensors:
    from minrl.kernels.lstm.cpu_loops import MARGIN
    from minrl.kernels.slstm import cpu_loops as loops

    weight, state, reset, h, mapped, cells = saved.kept
    batch, steps, _ = h.shape
    heads, size, wide = weight.shape
    turned = F.pad(weight.mT, (0, MARGIN))
    dgates, before = h.new_empty(batch, steps, heads, wide), torch.empty_like(h)
    dstate = None if state is None else torch.empty_like(state)
    tensors = turned, state, reset, h, mapped, cells, *contiguous(dh, dlast), dgates, dstate, before
    run_rows(loops.backward(), tensors, batch, h.numel() * wide, batch, steps, heads, size, like(h))
    dweight = None
    if saved.needed[1]:
        rows = before.view(-1, heads, size).transpose(0, 1)
        dweight = rows.mT @ dgates.view(-1, heads, wide).transpose(0, 1)
    return dgates, dweight, dstate, None


# Computes as `reference.slstm_scan` does.
slstm_scan = Recurrence(_forward, _backward, reference.slstm_scan)
