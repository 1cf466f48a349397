"""Output of an mLSTM on a CPU as one node of the autograd graph: one compiled pass forward, one backward.

Torch's operations make 12 passes over (B, T, D) forward and 20 backward.

Shapes: B batch, T time, H heads of E features, D = H * E.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from minrl.kernels.gated_norm import reference
from minrl.kernels.recurrence import Recurrence, Saved, Tensors, argument, like, run_rows


def _epsilons(x: Tensor) -> tuple[Any, Any]:
    kind = np.float64 if x.dtype == torch.float64 else np.float32
    return kind(reference.NORMALISER_EPSILON), kind(reference.NORM_EPSILON)


def _forward(
    y: Tensor, unit: Tensor, mixed: Tensor, gate: Tensor, scale: Tensor, skip: Tensor, *, keep: bool
) -> tuple[tuple[Tensor, ...], Tensors]:
    from minrl.kernels.gated_norm import cpu_loops as loops  # it imports numba

    (batch, steps, heads, size), kind = y.shape, y.dtype
    size, width = size - 1, heads * (size - 1)
    unit = argument("unit", unit, (batch, steps, heads), kind)
    mixed, gate = (argument("mixed and gate", x, (batch, steps, width), kind) for x in (mixed, gate))
    scale, skip = (argument("scale and skip", x, (width,), kind) for x in (scale, skip))
    y = y.contiguous()
    out = torch.empty_like(mixed)
    tensors = y, unit, mixed, gate, scale, skip, out
    run_rows(loops.forward(), tensors, batch, 8 * out.numel(), batch, steps, heads, size, *_epsilons(y), like(y))
    return (out,), (y, unit, mixed, gate, scale, skip) if keep else ()


def _backward(saved: Saved, dout: Tensor | None) -> Tensors:
    from minrl.kernels.gated_norm import cpu_loops as loops

    if dout is None:
        return (None,) * len(saved.inputs)
    y, _, mixed, gate, _, _ = saved.kept
    batch, steps, heads, size = y.shape
    dy, dmixed, dgate = torch.empty_like(y), torch.empty_like(mixed), torch.empty_like(gate)
    sums = y.new_zeros(batch, 2, mixed.shape[2])  # each row's gradients to scale and skip
    tensors = *saved.kept, dout.contiguous(), dy, dmixed, dgate, sums
    run_rows(
        loops.backward(), tensors, batch, 16 * mixed.numel(), batch, steps, heads, size - 1, *_epsilons(y), like(y)
    )
    dscale, dskip = sums.sum(0)
    return dy, None, dmixed, dgate, dscale, dskip


def _in_torch(y: Tensor, unit: Tensor, mixed: Tensor, gate: Tensor, scale: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
    return (reference.gated_norm(y, unit, mixed, gate, scale, skip),)


# Computes as `reference.gated_norm` does, of inputs (B, T, …) in one precision.
gated_norm = Recurrence(_forward, _backward, _in_torch)
