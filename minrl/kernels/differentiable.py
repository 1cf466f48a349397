"""The recurrences in torch operations alone, which torch differentiates any number of times and in both modes.

Forward-mode derivatives, `torch.func` and second derivatives run here: the compiled kernels have first derivatives
in reverse mode only.

Shapes: B batch, T time, D width, N chunks, C steps of a chunk, P parts of the gates (2: minGRU, 3: minLSTM).
"""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any, cast

import torch
from torch import Tensor

from minrl.kernels.scan.gates import Candidate, recurrence_of

Gradients = tuple[Tensor, Tensor, Tensor]

# torch's annotation covers the form with auxiliary outputs too.
_vjp: Any = torch.func.vjp

# Up to here one operation per step is cheaper than the two passes over chunks.
_LOOP_LIMIT = 32


def linear_scan(
    decay: Tensor, drive: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `minrl.scan.linear_scan` in about six times the square root of T operations, none in place."""
    h = drive.new_zeros(drive.shape[0], drive.shape[2]) if state is None else state
    steps = drive.shape[1]
    if reset is not None:
        decay = decay.masked_fill(reset.unsqueeze(-1), 0.0)
    if steps <= _LOOP_LIMIT:
        h = _loop(decay, drive, h, reset)
        return h, h[:, -1]
    chunk = isqrt(steps)
    whole = steps - steps % chunk
    parts = [_chunks(decay[:, :whole], drive[:, :whole], h, None if reset is None else reset[:, :whole], chunk)]
    if whole < steps:
        rest = None if reset is None else reset[:, whole:]
        parts.append(_loop(decay[:, whole:], drive[:, whole:], parts[0][:, -1], rest))
    h = torch.cat(parts, dim=1)
    return h, h[:, -1]


def gated_scan(
    gates: Tensor,
    state: Tensor | None,
    reset: Tensor | None,
    *,
    parts: int,
    candidate: Candidate,
    signed: bool,
    hard: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run minGRU on gates (B, T, 2D) or minLSTM on gates (B, T, 3D): h (B, T, D), last state (B, D)."""
    decay, drive = recurrence_of(gates, parts=parts, candidate=candidate, signed=signed, hard=hard)
    h, last = linear_scan(decay, drive, state, reset)
    return h.to(gates.dtype), last


def linear_gradients(
    decay: Tensor, state: Tensor | None, reset: Tensor | None, h: Tensor, dh: Tensor, dlast: Tensor
) -> Gradients:
    """Compute the gradients to decay, drive and state of a linear recurrence whose outputs were h.

    With G_t the gradient of all that follows from h_t, G_t = dh_t + conj(decay_{t+1}) G_{t+1}: one more linear
    recurrence, from the last step to the first.
    """
    precision = torch.promote_types(h.dtype, dlast.dtype)
    wide, dh, memory = decay.to(precision), dh.to(precision), h.to(precision)
    dh = torch.cat([dh[:, :-1], dh[:, -1:] + dlast.to(precision).unsqueeze(1)], dim=1)
    adjoint = torch.cat([torch.zeros_like(wide[:, :1]), wide[:, 1:].conj().flip(1)], dim=1)
    backward_reset = None
    if reset is not None:
        backward_reset = torch.cat([torch.zeros_like(reset[:, :1]), reset[:, 1:].flip(1)], dim=1)
    g = linear_scan(adjoint, dh.flip(1), None, backward_reset)[0].flip(1)
    first = torch.zeros_like(memory[:, 0]) if state is None else state.to(precision)
    before, dstate = torch.cat([first.unsqueeze(1), memory[:, :-1]], dim=1).conj(), wide[:, 0].conj() * g[:, 0]
    if reset is not None:
        before = before.masked_fill(reset.unsqueeze(-1), 0.0)
        dstate = dstate.masked_fill(reset[:, :1], 0.0)
    return (g * before).to(decay.dtype), g.to(h.dtype), dstate.to(dlast.dtype)


def gated_gradients(
    gates: Tensor,
    state: Tensor | None,
    reset: Tensor | None,
    h: Tensor,
    dh: Tensor,
    dlast: Tensor,
    parts: int,
    candidate: str,
    signed: bool,
    hard: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients to gates and state of a gated recurrence whose outputs were h."""

    def form(gates: Tensor) -> tuple[Tensor, Tensor]:
        return recurrence_of(gates, parts=parts, candidate=cast("Candidate", candidate), signed=signed, hard=hard)

    (decay, drive), pull_back = _vjp(form, gates)
    ddecay, ddrive, dstate = linear_gradients(decay, state, reset, h.to(drive.dtype), dh, dlast)
    (dgates,) = pull_back((ddecay, ddrive))
    return dgates, dstate


def gradients_of(
    function: Callable[..., Any], inputs: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Compute the gradients to those of a function's inputs that need one, so that they can be differentiated again.

    For the backward pass of an operator whose kernel torch cannot differentiate: `function` computes the same outputs
    from the same inputs in torch operations. It runs once more.

    Args:
        function: of all `inputs`, to a tensor or a tuple of tensors.
        inputs: tensors, and others that need no gradient.
        needed: for each of them, True if its gradient is required.
        gradients: to each output; None is zero.

    Returns:
        For each input its gradient, None where none is needed.
    """
    places = [place for place, is_needed in enumerate(needed) if is_needed]

    def run(*chosen: Tensor) -> Any:
        everything = list(inputs)
        for place, value in zip(places, chosen, strict=True):
            everything[place] = value
        return function(*everything)

    outputs, pull_back = _vjp(run, *(inputs[place] for place in places))
    together = outputs if isinstance(outputs, tuple) else (outputs,)
    given = tuple(torch.zeros_like(y) if dy is None else dy for y, dy in zip(together, gradients, strict=True))
    found = iter(pull_back(given if isinstance(outputs, tuple) else given[0]))
    return [next(found) if is_needed else None for is_needed in needed]


def _loop(decay: Tensor, drive: Tensor, h: Tensor, reset: Tensor | None) -> Tensor:
    """Compute the recurrence (B, T, D), one operation per step; `decay` is zero at resets."""
    outputs = []
    for t in range(drive.shape[1]):
        h = torch.addcmul(drive[:, t], decay[:, t], _emptied(h, reset, t))
        outputs.append(h)
    return torch.stack(outputs, dim=1)


def _chunks(decay: Tensor, drive: Tensor, state: Tensor, reset: Tensor | None, chunk: int) -> Tensor:
    """Compute the recurrence (B, N * C, D): each chunk's map of a state, then all chunks from the states that enter."""
    batch, steps, width = drive.shape
    # Reshaped, not unflattened: many gradients at once (`is_grads_batched`) have no rule for that.
    decay, drive = (x.reshape(batch, steps // chunk, chunk, width) for x in (decay, drive))  # (B, N, C, D)
    opens = None if reset is None else reset.unflatten(1, (-1, chunk))
    local, product = drive[:, :, 0], decay[:, :, 0]  # (B, N, D)
    locals_, products = [local], [product]
    for c in range(1, chunk):
        at = None if opens is None else opens[:, :, c]
        local = torch.addcmul(drive[:, :, c], decay[:, :, c], _emptied(local, at))
        product = decay[:, :, c] * _emptied(product, at)
        locals_.append(local)
        products.append(product)
    all_local, all_products = torch.stack(locals_, dim=2), torch.stack(products, dim=2)  # (B, N, C, D)
    # True where a reset lies between a chunk's start and a step: the entering state is then dropped.
    gone = None if opens is None else opens.cumsum(dim=2) > 0
    entering = []
    for n in range(drive.shape[1]):
        entering.append(state)
        state = torch.addcmul(local[:, n], product[:, n], _emptied(state, None if gone is None else gone[:, n, -1]))
    before = torch.stack(entering, dim=1).unsqueeze(2)  # (B, N, 1, D)
    if gone is not None:
        before = before.expand(-1, -1, chunk, -1).masked_fill(gone.unsqueeze(-1), 0.0)
    return torch.addcmul(all_local, all_products, before).reshape(batch, steps, width)


def _emptied(h: Tensor, reset: Tensor | None, step: int | None = None) -> Tensor:
    """Zero the state where `reset`, by selection: a product with a decay of zero would let NaN through."""
    if reset is None:
        return h
    return h.masked_fill((reset if step is None else reset[:, step]).unsqueeze(-1), 0.0)
