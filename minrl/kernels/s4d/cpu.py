"""The recurrence of S4D on a CPU as one node of the autograd graph: one compiled loop over time forward, one backward.

The states of all steps are many times the size of the inputs. One of `loops.CHUNK` is saved, from which the backward
pass recomputes those between, in the cache.

Shapes: B batch, T time, D channels, M states of a channel.
"""

import torch
from torch import Tensor

from minrl.kernels.recurrence import Recurrence, Saved, Tensors, argument, contiguous, like, optional, run_rows
from minrl.kernels.s4d import reference


def _forward(
    u: Tensor, decay: Tensor, factor: Tensor, c: Tensor, state: Tensor | None, reset: Tensor | None, *, keep: bool
) -> tuple[tuple[Tensor, ...], Tensors]:
    from minrl.kernels.s4d import cpu_loops as loops  # it imports numba

    batch, steps, width = u.shape
    states = decay.shape[1]
    parts = [argument(n, x, (width, states, 2), u.dtype) for n, x in (("decay", decay), ("factor", factor), ("c", c))]
    # Decay, factor and c, real and imaginary, of each state: (M, 6, D).
    weights = torch.cat(parts, dim=2).permute(1, 2, 0).contiguous()
    state = optional("state", state, (batch, width * states * 2), u.dtype)
    reset = optional("reset", reset, (batch, steps), torch.bool)
    u = u.contiguous()
    y, last = torch.empty_like(u), u.new_empty(batch, width * states * 2)
    entering = u.new_empty(batch, -(-steps // loops.CHUNK), states, 2, width) if keep else None
    tensors = u, weights, state, reset, y, last, entering
    run_rows(loops.forward(), tensors, batch, 8 * u.numel() * states, batch, steps, width, states, like(y))
    return (y, last), (u, weights, reset, entering) if keep else ()


def _backward(saved: Saved, dy: Tensor | None, dlast: Tensor | None) -> Tensors:
    from minrl.kernels.s4d import cpu_loops as loops

    u, weights, _, _ = saved.kept
    (batch, steps, width), states = u.shape, weights.shape[0]
    du, of_weights = torch.empty_like(u), u.new_zeros(batch, states, 6, width)
    dstate = None if saved.inputs[4] is None else u.new_empty(batch, width * states * 2)
    tensors = *saved.kept, *contiguous(dy, dlast), du, of_weights, dstate
    run_rows(loops.backward(), tensors, batch, 24 * u.numel() * states, batch, steps, width, states, like(u))
    ddecay, dfactor, dc = of_weights.sum(0).permute(2, 0, 1).split(2, dim=2)
    return du, ddecay, dfactor, dc, dstate, None


# Computes as `reference.s4d_scan` does.
s4d_scan = Recurrence(_forward, _backward, reference.s4d_scan)
