"""The recurrence of a matrix per head on a CPU as one node of the autograd graph: one compiled loop each way.

The matrices of all steps are many times the size of the inputs. One of `loops.CHUNK` is saved, from which the backward
pass recomputes those between, in the cache.

Shapes: B batch, T time, H heads, K features of a key, V of a value; N chunks.
"""

from functools import partial

import torch
from torch import Tensor

from minrl.kernels.matrix import reference
from minrl.kernels.recurrence import Recurrence, Saved, Tensors, argument, contiguous, like, optional, run_rows


def _sizes(query: Tensor, key: Tensor, value: Tensor, decay: Tensor) -> tuple[int, ...]:
    """Return B, T, H, K, V and the numbers of heads and features of query, key and decay."""
    return *value.shape[:3], key.shape[3], value.shape[3], query.shape[2], key.shape[2], decay.shape[3]


def _forward(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, state: Tensor | None, reset: Tensor | None,
    *, keep: bool, reads_before: bool,
) -> tuple[tuple[Tensor, ...], Tensors]:  # fmt: skip
    from minrl.kernels.matrix import cpu_loops as loops  # it imports numba

    sizes = _sizes(query, key, value, decay)
    batch, steps, heads, size, width, of_query, of_key, of_decay = sizes
    query = argument("query", query, (batch, steps, 1 if of_query == 1 else heads, size), value.dtype)
    key = argument("key", key, (batch, steps, 1 if of_key == 1 else heads, size), value.dtype)
    decay = argument("decay", decay, (batch, steps, heads, 1 if of_decay == 1 else size), value.dtype)
    state = optional("state", state, (batch, heads * size * width), value.dtype)
    reset = optional("reset", reset, (batch, steps), torch.bool)
    value = value.contiguous()
    y, last = torch.empty_like(value), value.new_empty(batch, heads * size * width)
    entering = value.new_empty(batch, heads, -(-steps // loops.CHUNK), width * size) if keep else None
    tensors = query, key, value, decay, state, reset, y, last, entering
    run_rows(loops.forward(reads_before), tensors, batch, value.numel() * size, *sizes, like(y))
    return (y, last), (query, key, value, decay, reset, entering) if keep else ()


def _backward(saved: Saved, dy: Tensor | None, dlast: Tensor | None, *, reads_before: bool) -> Tensors:
    from minrl.kernels.matrix import cpu_loops as loops

    query, key, value, decay, _, _ = saved.kept
    sizes = _sizes(query, key, value, decay)
    gradients = [torch.empty_like(x) for x in (query, key, value, decay)]
    dstate = None if saved.inputs[4] is None else value.new_empty(saved.inputs[4].shape)
    tensors = *saved.kept, *contiguous(dy, dlast), *gradients, dstate
    run_rows(loops.backward(reads_before), tensors, sizes[0], 3 * value.numel() * sizes[3], *sizes, like(value))
    return *gradients, dstate, None


def _recurrence(before: bool) -> Recurrence:
    return Recurrence(
        partial(_forward, reads_before=before),
        partial(_backward, reads_before=before),
        partial(reference.matrix_scan, reads_before=before),
    )


# Compute as `reference.matrix_scan` does, which reads the state after or before the step.
matrix_scan, matrix_scan_before = _recurrence(False), _recurrence(True)
