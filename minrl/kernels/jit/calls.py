"""Calls of functions of numba that were compiled elsewhere, by their addresses."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _built(context: Any, result: Any) -> Any:
    """Return the code of a call of what lies at the first argument, with the others."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts = [context.get_value_type(part) for part in signature.args[1:]]
        kind = ir.FunctionType(context.get_value_type(result), parts)
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    return generate


def caller_of_three(result: Any) -> Any:
    """Return a compiled function (address, a, b, c) that calls a function with that result."""

    def call(context: Any, address: Any, a: Any, b: Any, c: Any) -> Any:
        return result(types.int64, a, b, c), _built(context, result)

    return intrinsic(call)


def caller_of_act() -> Any:
    """Return a compiled function that calls `minrl.kernels.ppo.act.act_rows` at an address."""
    result, at = types.void, types.int64

    def call(
        context: Any, address: Any, plan: Any, reals: Any, features: Any, starts: Any, previous: Any, state: Any,
        noise: Any, masks: Any, actions: Any, values: Any, log_probs: Any, last: Any, batch: Any,
    ) -> Any:  # fmt: skip
        return result(at, plan, reals, *[at] * 11), _built(context, result)

    return intrinsic(call)


def caller_of_cell_step() -> Any:
    """Return a compiled function that calls one of `minrl.kernels.backbone.cells` at an address."""
    result, at = types.void, types.int64

    def call(
        context: Any, address: Any, gates: Any, more: Any, state: Any, h: Any, stride: Any, batch: Any, inner: Any,
        flip: Any,
    ) -> Any:  # fmt: skip
        return result(*[at] * 8, types.float32), _built(context, result)

    return intrinsic(call)


def caller_of_cell() -> Any:
    """Return a compiled function that calls one of `minrl.kernels.ppo.cells` at an address."""
    result, at = types.void, types.int64

    def call(
        context: Any, address: Any, weights: Any, gradients: Any, saved: Any, room: Any, x: Any, resets: Any,
        state: Any, h: Any, first: Any, second: Any, batch: Any, steps: Any, inputs: Any, inner: Any, state_size: Any,
        flip: Any,
    ) -> Any:  # fmt: skip
        return result(at, weights, gradients, saved, room, *[at] * 11, flip), _built(context, result)

    return intrinsic(call)


def caller_of_blocks() -> Any:
    """Return a compiled function that calls the step of `minrl.kernels.backbone.step_loops.blocks_address`."""
    result, at = types.void, types.int64

    def call(
        context: Any, address: Any, plan: Any, epsilons: Any, stream: Any, state: Any, first: Any, stride: Any, y: Any,
        batch: Any, width: Any, inner: Any, hidden: Any, taps: Any, depth: Any, cell: Any, parts: Any, memory: Any,
        flip: Any,
    ) -> Any:  # fmt: skip
        floats = types.float32[::1]
        signature = result(at, plan, *[floats] * 3, at, at, floats, *[at] * 9, types.float32)
        return signature, _built(context, result)

    return intrinsic(call)
