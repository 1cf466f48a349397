"""The scan of a whole stack of blocks and its final norm, as one node of the autograd graph.

Shapes: B batch, T time, D width, N = B * T rows, S state size.
"""

from typing import Any

import torch
from torch import Tensor

from minrl.kernels.backbone import in_torch
from minrl.kernels.backbone.dropout import draw
from minrl.kernels.backbone.layout import (
    OF_BLOCK,
    SAVED_PER_BLOCK,
    TENSORS_PER_BLOCK,
    Noises,
    SavedTensors,
    ScanFrame,
    StackLayout,
)
from minrl.kernels.backbone.passes import block_backward, block_forward, norm_backward, norm_forward
from minrl.kernels.differentiable import gradients_of
from minrl.kernels.guard import gradients_are_differentiated
from minrl.kernels.jit.threads import Sums


def scan(
    stack: StackLayout, weights: tuple[Tensor | None, ...], x: Tensor, state: Tensor | None, reset: Tensor | None,
    rates: tuple[float, ...] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute x (B, T, D), state (B, S), reset (B, T) -> y (B, T, D), last state (B, S); `rates` are the blocks'
    dropout."""
    nothing: list[Noises] = [(None, None)] * len(stack.forms)
    noises = nothing if rates is None else draw(rates, type(stack.epsilon))
    reset = x.new_zeros(x.shape[:2], dtype=torch.bool) if reset is None else reset.contiguous()
    state = None if state is None else state.contiguous()
    if torch.is_grad_enabled():
        y, last = _Scan.apply(stack, noises, reset, x.contiguous(), state, *weights)  # type: ignore[no-untyped-call]
        return y, last
    return _forward(stack, noises, reset, x.contiguous(), state, weights, None)


def _forward(
    stack: StackLayout, noises: list[Noises], reset: Tensor, x: Tensor, state: Tensor | None,
    weights: tuple[Tensor | None, ...], kept: list[Tensor | None] | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run the forward pass; tensors for the backward pass are added to `kept` where it is given."""
    batch, steps, width = x.shape
    state = x.new_zeros(batch, stack.state_size) if state is None else state
    y, last, stats = torch.empty_like(x), torch.empty_like(state), x.new_empty(batch * steps, 2)
    frame = ScanFrame(batch, steps, width, stack.state_size, reset.data_ptr(), state.data_ptr(), last.data_ptr())
    stream = x.view(batch * steps, width)
    for form, block, noise in zip(stack.forms, stack.blocks(weights), noises, strict=True):
        stream, saved = block_forward(form, block, stream, frame, noise)
        if kept is not None:
            kept.extend(saved)
    norm, bias = weights[-2:]
    assert norm is not None and bias is not None  # noqa: PT018
    norm_forward(norm, bias, stack.epsilon, stream, y.view_as(stream), stats)
    if kept is not None:
        kept.extend((stream, stats))
    return y, last


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stack: StackLayout, noises: list[Noises], reset: Tensor, x: Tensor, state: Tensor | None,
        *weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kept: list[Tensor | None] = []
        outputs = _forward(stack, noises, reset, x, state, weights, kept)
        ctx.save_for_backward(x, reset, state, *weights, *kept)
        ctx.stack, ctx.noises = stack, noises
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        stack: StackLayout = ctx.stack
        x, reset, given, *tensors = ctx.saved_tensors
        count = len(stack.forms) * TENSORS_PER_BLOCK + 2
        if gradients_are_differentiated(dy, dlast):
            masks = in_torch.masks(ctx.noises, x)
            inputs = stack, masks, reset, x, given, *tensors[:count]
            return tuple(gradients_of(in_torch.scan, inputs, ctx.needs_input_grad, (dy, dlast)))
        *kept, stream, stats = tensors[count:]
        weights, sums = tuple(tensors[:count]), Sums(stack.sums(x.shape[2]), stream)
        state = stream.new_zeros(x.shape[0], stack.state_size) if given is None else given
        dlast = torch.zeros_like(state) if dlast is None else dlast.contiguous()
        dstate, scratch = torch.empty_like(state), torch.empty_like(state)
        batch, steps, width = x.shape
        frame = ScanFrame(
            batch, steps, width, stack.state_size, reset.data_ptr(), state.data_ptr(), dlast.data_ptr(),
            dstate.data_ptr(),
        )  # fmt: skip
        gradients: list[Tensor | None] = [None, None]
        dstream: Tensor | None = None
        if dy is not None:
            dy, dstream, at = dy.contiguous().view_as(stream), torch.empty_like(stream), len(stack.forms) * OF_BLOCK
            norm, bias = weights[-2:]
            norm_backward(norm, bias, stack.epsilon, stream, stats, dy, None, dstream, None, sums, at)
            gradients = sums.parts[at : at + 2]
        blocks = stack.blocks(weights)
        for i in reversed(range(len(blocks))):
            saved = SavedTensors(*kept[i * SAVED_PER_BLOCK : (i + 1) * SAVED_PER_BLOCK])
            dstream, of_block = block_backward(
                stack.forms[i], blocks[i], saved, dstream, frame, ctx.noises[i], sums, i * OF_BLOCK,
                scratch.data_ptr(),
            )  # fmt: skip
            gradients = of_block + gradients
        sums.add_up()
        assert dstream is not None
        return None, None, None, dstream.view(x.shape), None if given is None else dstate, *gradients
