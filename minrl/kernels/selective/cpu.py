"""The selective scan on a CPU as one node of the autograd graph: one compiled loop over time forward, one backward.

The states of all steps are many times the size of the inputs. One of `loops.CHUNK` is saved, from which the backward
pass recomputes those between, in the cache.

Shapes: B batch, T time, H channels, N states of a channel.
"""

import torch
from torch import Tensor

from minrl.kernels.recurrence import Recurrence, Saved, Tensors, argument, contiguous, like, optional, run_rows
from minrl.kernels.selective import reference


def _forward(
    dt: Tensor,
    drive: Tensor,
    b: Tensor,
    c: Tensor,
    a: Tensor,
    state: Tensor | None,
    reset: Tensor | None,
    *,
    keep: bool,
) -> tuple[tuple[Tensor, ...], Tensors]:
    from minrl.kernels.selective import cpu_loops as loops  # it imports numba

    batch, steps, width = dt.shape
    states = b.shape[2]
    dt, drive = dt.contiguous(), argument("drive", drive, (batch, steps, width), dt.dtype)
    b = argument("b", b, (batch, steps, states), dt.dtype)
    c = argument("c", c, (batch, steps, states), dt.dtype)
    turned = argument("a", a, (width, states), dt.dtype).t().contiguous()
    state = optional("state", state, (batch, width * states), dt.dtype)
    reset = optional("reset", reset, (batch, steps), torch.bool)
    y, last = torch.empty_like(dt), dt.new_empty(batch, width * states)
    entering = dt.new_empty(batch, -(-steps // loops.CHUNK), states, width) if keep else None
    tensors = dt, drive, b, c, turned, state, reset, y, last, entering
    # An exponential is as much work as ten multiply-adds.
    run_rows(loops.forward(), tensors, batch, 10 * dt.numel() * states, batch, steps, width, states, like(y))
    return (y, last), (dt, drive, b, c, turned, reset, entering) if keep else ()


def _backward(saved: Saved, dy: Tensor | None, dlast: Tensor | None) -> Tensors:
    from minrl.kernels.selective import cpu_loops as loops

    dt, drive, b, c, *_ = saved.kept
    (batch, steps, width), states = dt.shape, b.shape[2]
    gradients = [torch.empty_like(x) for x in (dt, drive, b, c)]
    of_a = dt.new_zeros(batch, states, width)
    dstate = None if saved.inputs[5] is None else dt.new_empty(batch, width * states)
    tensors = *saved.kept, *contiguous(dy, dlast), *gradients, of_a, dstate
    run_rows(loops.backward(), tensors, batch, 20 * dt.numel() * states, batch, steps, width, states, like(dt))
    return *gradients, of_a.sum(0).t() if saved.needed[4] else None, dstate, None


# Computes as `reference.selective_scan` does.
selective_scan = Recurrence(_forward, _backward, reference.selective_scan)
