"""The LSTM on a CPU as one node of the gradient's graph: one compiled loop over time forward, one backward.

Shapes: B batch, T time, D width of the input, H width.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minrl.kernels import cpu

# Below so many multiply-adds a second thread costs more than it brings.
_WORK_PER_THREAD = 1 << 20

_is_tracing: Any = torch.jit.is_tracing  # type: ignore[attr-defined]


def takes(x: Tensor) -> bool:
    """Whether the kernel takes inputs like `x`, here and now."""
    if type(x) not in (Tensor, torch.nn.Parameter) or torch.compiler.is_compiling() or _is_tracing():
        return False
    return cpu.takes(x) and not torch._C._are_functorch_transforms_active()


def lstm_scan(
    gates: Tensor, weight: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `minrl.scan.lstm_scan`, for tensors that `takes` takes."""
    h, last = _Scan.apply(gates, weight, state, reset)
    return h, last


def lstm_layer(
    x: Tensor, weights: tuple[Tensor, ...], state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`lstm_scan` of x (B, T, D) with W_ih, W_hh and perhaps b_ih and b_hh, as torch keeps them."""
    h, last = _Layer.apply(x, state, reset, *weights)
    return h, last


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, gates: Tensor, weight: Tensor, state: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        gates = gates.clone(memory_format=torch.contiguous_format)
        h, last, kept = _forward(gates, weight, state, reset, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(*kept)
        ctx.set_materialize_grads(False)
        return h, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        dgates, before, dstate = _backward(*ctx.saved_tensors, dh, dlast)
        dweight = _flat(dgates).t() @ _flat(before) if ctx.needs_input_grad[1] else None
        return dgates, dweight, dstate, None


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, state: Tensor | None, reset: Tensor | None, into: Tensor, weight: Tensor, *biases: Tensor
    ) -> tuple[Tensor, Tensor]:
        flat = _flat(x)
        gates = torch.addmm(biases[0] + biases[1], flat, into.t()) if biases else flat @ into.t()
        gates = gates.view(*x.shape[:2], -1)
        h, last, kept = _forward(gates, weight, state, reset, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(flat, into, *kept)
        ctx.set_materialize_grads(False)
        return h, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        flat, into, *kept = ctx.saved_tensors
        of_x, of_state, _, of_into, of_weight, *of_biases = ctx.needs_input_grad
        dgates, before, dstate = _backward(*kept, dh, dlast)
        rows = _flat(dgates)
        dx = (rows @ into).view(*dgates.shape[:2], -1) if of_x else None
        dinto = rows.t() @ flat if of_into else None
        dweight = rows.t() @ _flat(before) if of_weight else None
        dbias = rows.sum(0) if any(of_biases) else None
        return dx, dstate if of_state else None, None, dinto, dweight, *(dbias for _ in of_biases)


def _forward(
    gates: Tensor, weight: Tensor, state: Tensor | None, reset: Tensor | None, *, keep: bool
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """h (B, T, H), the last state (B, 2H) and what the way back needs; the gates (B, T, 4H) are overwritten."""
    from minrl.kernels import cpu_lstm_loops as loops  # it imports numba

    batch, steps, wide = gates.shape
    width, like = wide // 4, _like(gates)
    weight, state = weight.contiguous(), None if state is None else state.contiguous()
    reset = None if reset is None else reset.contiguous()
    h, last = gates.new_empty(batch, steps, width), gates.new_empty(batch, 2 * width)
    cells = torch.empty_like(h) if keep else None
    turned = gates.new_empty(width, wide + loops.MARGIN)
    loops.turn()(weight.data_ptr(), turned.data_ptr(), width, like)
    addresses = [gates, turned, state, reset, h, last, cells]
    _run(loops.forward(), addresses, batch, steps, width, like)
    return h, last, (weight, state, reset, h, gates, cells)


def _backward(
    weight: Tensor,
    state: Tensor | None,
    reset: Tensor | None,
    h: Tensor,
    gates: Tensor,
    cells: Tensor,
    dh: Tensor | None,
    dlast: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradient to the gates (B, T, 4H), h_{t-1} as step t saw it (B, T, H), the gradient to the state (B, 2H)."""
    from minrl.kernels import cpu_lstm_loops as loops

    dgates, before, dstate = torch.empty_like(gates), torch.empty_like(h), None if state is None else torch.empty_like(state)
    dh, dlast = None if dh is None else dh.contiguous(), None if dlast is None else dlast.contiguous()
    addresses = [weight, state, reset, h, gates, cells, dh, dlast, dgates, dstate, before]
    _run(loops.backward(), addresses, *h.shape, _like(h))
    return dgates, before, dstate


def _flat(x: Tensor) -> Tensor:
    """(B, T, D) -> (BT, D)."""
    return x.reshape(-1, x.shape[2])


def _like(x: Tensor) -> Any:
    """A number in the precision of `x`."""
    return np.float64(0) if x.dtype == torch.float64 else np.float32(0)


def _run(kernel: Callable[..., None], tensors: list[Tensor | None], batch: int, steps: int, width: int, like: Any) -> None:
    """Share the batch rows among as many threads as torch has."""
    addresses = [0 if x is None else x.data_ptr() for x in tensors]
    sizes = batch, steps, width, like
    threads = min(torch.get_num_threads(), batch, batch * steps * 4 * width * width // _WORK_PER_THREAD)
    if threads <= 1:
        kernel(*addresses, 0, batch, *sizes)
        return
    cuts = [batch * i // threads for i in range(threads + 1)]
    others = [cpu._pool().submit(kernel, *addresses, first, end, *sizes) for first, end in pairwise(cuts[1:])]
    kernel(*addresses, 0, cuts[1], *sizes)
    for other in others:
        other.result()
