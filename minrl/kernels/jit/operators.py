"""The recurrences as torch operators: schemas, derivatives, and refused transforms.

First derivatives in reverse mode are operators too, which run kernels. Second ones run in torch operations. An
operator has no rule for forward mode; `minrl.scan` does not call it there.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minrl.kernels.differentiable import gated_gradients, gradients_of, linear_gradients
from minrl.kernels.guard import under_transform

_GATED = "int parts, str candidate, bool signed, bool hard"
_Kernel = Callable[..., Any]


def register_linear(
    name: str, devices: str | Sequence[str], forward: _Kernel, backward: _Kernel, *, last: torch.dtype | None = None
) -> None:
    """Register a linear recurrence as `torch.ops.minrl.NAME`, and its backward pass as `NAME_backward`.

    `last` is the precision of the last state, by default that of the inputs.
    """
    schema = "(Tensor decay, Tensor drive, Tensor? state, Tensor? reset) -> (Tensor, Tensor)"
    of_backward = (
        "(Tensor decay, Tensor? state, Tensor? reset, Tensor h, Tensor dh, Tensor dlast) -> (Tensor, Tensor, Tensor)"
    )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        decay, _, state, reset = inputs
        ctx.save_for_backward(decay, state, reset, output[0])

    def gradients(ctx: Any, dh: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        decay, state, reset, h = ctx.saved_tensors
        ddecay, ddrive, dstate = run_backward(decay, state, reset, h, dh, dlast)
        return ddecay, ddrive, None if state is None else dstate, None

    def fake_forward(decay: Tensor, drive: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        batch, steps, width = drive.shape
        return drive.new_empty(batch, steps, width), drive.new_empty(batch, width, dtype=last)

    def fake_backward(decay: Tensor, state: Any, reset: Any, h: Tensor, dh: Tensor, dlast: Tensor) -> Any:
        return torch.empty_like(h), torch.empty_like(h), dlast.new_empty(dlast.shape)

    _operator(name, devices, schema, forward, fake_forward).register_autograd(gradients, setup_context=keep)
    run_backward = _backward(name, devices, of_backward, backward, fake_backward, linear_gradients)


def register_gated(
    name: str, devices: str | Sequence[str], forward: _Kernel, backward: _Kernel, *, last: torch.dtype | None = None
) -> None:
    """Register a recurrence that forms its gates as `register_linear` does."""
    schema = f"(Tensor gates, Tensor? state, Tensor? reset, {_GATED}) -> (Tensor, Tensor)"
    of_backward = (
        f"(Tensor gates, Tensor? state, Tensor? reset, Tensor h, Tensor dh, Tensor dlast, {_GATED}) -> (Tensor, Tensor)"
    )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        gates, state, reset, *ctx.options = inputs
        ctx.save_for_backward(gates, state, reset, output[0])

    def gradients(ctx: Any, dh: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        gates, state, reset, h = ctx.saved_tensors
        dgates, dstate = run_backward(gates, state, reset, h, dh, dlast, *ctx.options)
        return dgates, None if state is None else dstate, None, None, None, None, None

    def fake_forward(gates: Tensor, state: Any, reset: Any, parts: int, *others: Any) -> tuple[Tensor, Tensor]:
        batch, steps, columns = gates.shape
        return gates.new_empty(batch, steps, columns // parts), gates.new_empty(batch, columns // parts, dtype=last)

    def fake_backward(gates: Tensor, state: Any, reset: Any, h: Tensor, dh: Tensor, dlast: Tensor, *others: Any) -> Any:
        return torch.empty_like(gates, memory_format=torch.contiguous_format), dlast.new_empty(dlast.shape)

    _operator(name, devices, schema, forward, fake_forward).register_autograd(gradients, setup_context=keep)
    run_backward = _backward(name, devices, of_backward, backward, fake_backward, gated_gradients)


def _backward(
    name: str, devices: str | Sequence[str], schema: str, kernel: _Kernel, fake: _Kernel, in_torch: _Kernel
) -> _Kernel:
    """Register the backward pass of `name`, differentiable through `in_torch`; return the function that runs it."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        is_tensor = [isinstance(value, Tensor) for value in inputs]
        ctx.save_for_backward(*(value for value, is_one in zip(inputs, is_tensor, strict=True) if is_one))
        ctx.others = [None if is_one else value for value, is_one in zip(inputs, is_tensor, strict=True)]
        ctx.is_tensor = is_tensor

    def gradients(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        tensors = iter(ctx.saved_tensors)
        inputs = [next(tensors) if is_one else other for is_one, other in zip(ctx.is_tensor, ctx.others, strict=True)]
        return tuple(gradients_of(in_torch, inputs, ctx.needs_input_grad, cotangents))

    operator = _operator(f"{name}_backward", devices, schema, kernel, fake)
    operator.register_autograd(gradients, setup_context=keep)

    def run(*inputs: Any) -> Any:
        # The backward pass of an older graph may get gradients with forward-mode derivatives.
        return in_torch(*inputs) if under_transform() else operator(*inputs)

    return run


def _operator(name: str, devices: str | Sequence[str], schema: str, kernel: _Kernel, fake: _Kernel) -> Any:
    operator = torch.library.custom_op(
        f"minrl::{name}", _refusing(name, kernel), mutates_args=(), device_types=devices, schema=schema
    )
    operator.register_fake(_refusing(name, fake))
    return operator


def _refusing(name: str, run: _Kernel) -> _Kernel:
    """Return `run` that refuses transforms: torch hands an operator no tangents, which would count as zero."""

    @wraps(run)
    def checked(*inputs: Any) -> Any:
        if under_transform():
            raise NotImplementedError(
                f"torch.ops.minrl.{name} has no rule for forward-mode derivatives and torch.func: call minrl.scan's"
                " functions, which have"
            )
        return run(*inputs)

    return checked


def flat(x: Tensor | None, like: Tensor | None = None) -> Any:
    """Return the elements of `x` as one array; an empty one in the precision of `like` without `x`."""
    if x is None:
        return np.empty(0, scalar(False, like).dtype)
    return x.detach().contiguous().view(-1).numpy()


def reset_flags(reset: Tensor | None) -> Any:
    return np.empty(0, np.bool_) if reset is None else flat(reset)


def scalar(signed: bool, like: Tensor | None) -> Any:
    """Return 1 or 0 in the precision of `like`."""
    return (np.float64 if like is not None and like.dtype == torch.float64 else np.float32)(signed)
