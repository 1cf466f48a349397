"""One step of a whole agent as a single compiled call, on a CPU where no gradient is needed.

Shapes: B batch, O observation, A action, D width, S state size.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minrl.backbone.compiled_step import takes
from minrl.backbone.weights import StackWeights, addresses
from minrl.kernels.guard import Watch, plain, readable


@dataclass(frozen=True)
class Piece:
    """Part of an action and its decoding from the head's outputs."""

    kind: str  # line, tanh, choice, binary or bins
    whole: bool  # True if it is rounded
    inputs: int
    outputs: int
    first: Tensor | None = None  # (outputs,) center or low
    second: Tensor | None = None  # (outputs,) reach or interval
    low: Tensor | None = None  # (outputs,) range of a line
    high: Tensor | None = None
    mean: Tensor | None = None  # (outputs,) the action enters the state as (action - mean) * inverse, unless None
    inverse: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """Tensors in the kernel's order."""
        return self.first, self.second, self.low, self.high, self.mean, self.inverse


@dataclass(frozen=True)
class Surroundings:
    """Layers around the backbone: weights, and the columns of the acting state.

    The state is target return, earned return and time step (if there are returns), the previous action, and the
    backbone's state.
    """

    mean: Tensor  # (O,) observations enter as (observation - mean - rest) / std
    rest: Tensor
    std: Tensor
    observation: nn.Linear
    action_size: int
    head: nn.Linear
    pieces: tuple[Piece, ...]
    returns: nn.Linear | None = None
    return_scale: float = 1.0
    most: float = float("inf")  # the largest target return
    time: Tensor | None = None  # (steps, D)
    action: nn.Linear | None = None
    certain: bool = False  # True if a sample is the most likely action


@dataclass(frozen=True)
class Plan:
    """Compiled step of an agent; the values of the weights are read at every call."""

    kernel: Callable[..., None]
    constants: tuple[Any, ...]
    centered: tuple[Any, ...]  # the constants for centred observations
    width: int
    observation_size: int
    action_size: int
    state_size: int
    columns: int
    certain: bool
    watch: Watch


def run(
    plan: Plan,
    observation: Tensor,
    reward: Tensor,
    start: Tensor,
    state: Tensor,
    *,
    decides: bool,
    centered: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Compute the most likely actions (B, A) and the next state; return None for inputs that the kernel cannot take.

    Without `decides` the first result is the head's input (B, D), and the caller fills the state's action columns.
    """
    if not (plain(observation, 2) and plain(state, 2) and plain(reward, 1) and start.is_cpu):
        return None
    batch = observation.shape[0]
    if not takes(batch) or observation.shape[1] != plan.observation_size:
        return None
    if state.shape != (batch, plan.state_size) or not len(reward) == batch == len(start):
        return None
    if observation.stride(1) != 1:
        observation = observation.contiguous()
    if state.stride(1) != 1:
        state = state.contiguous()
    reward, start = reward.contiguous(), start.contiguous()
    out = state.new_empty((batch, plan.action_size if decides else plan.width))
    last = torch.empty_like(state, memory_format=torch.contiguous_format)
    constants = plan.centered if centered else plan.constants
    plan.kernel(
        *constants, observation.data_ptr(), observation.stride(0), reward.data_ptr(), start.data_ptr(),
        state.data_ptr(), state.stride(0), out.data_ptr(), last.data_ptr(), batch, int(decides),
    )  # fmt: skip
    return out, last


def plan_of(
    agent: nn.Module, stack: StackWeights, around: Surroundings, attributes: Iterable[tuple[nn.Module, str]]
) -> Plan | None:
    """Build the compiled step of an agent; it is valid until a part or one of `attributes` is replaced."""
    linears = (around.observation, around.returns, around.action, around.head)
    if any(linear is not None and type(linear) is not nn.Linear for linear in linears):
        return None
    observation, returns, action, head = map(_both, linears)
    own = [around.mean, around.rest, around.std, *observation, *returns, around.time, *action, *head]
    of_pieces = [tensor for piece in around.pieces for tensor in piece.tensors]
    nothing = torch.zeros_like(around.mean)
    centered = [nothing, nothing, *own[2:]]
    tensors = [tensor for tensor in (*stack.weights, *own, nothing, *of_pieces) if tensor is not None]
    watch = Watch.over(agent, tensors, attributes)
    if watch is None or not readable(tensors):
        return None
    from minrl.kernels.backbone import act_loops  # it imports numba

    columns = 0 if around.returns is None else act_loops.OF_RETURNS
    plan = Plan(
        kernel=act_loops.act_kernel(*stack.kind),
        constants=(),
        centered=(),
        width=stack.sizes[0],
        observation_size=around.mean.numel(),
        action_size=around.action_size,
        state_size=columns + around.action_size + stack.state_size,
        columns=columns,
        certain=around.certain,
        watch=watch,
    )
    outputs = sum(piece.inputs for piece in around.pieces)
    longest = 0 if around.time is None else around.time.shape[0]
    sizes = (*stack.sizes, columns, plan.observation_size, plan.action_size, outputs, longest, plan.state_size)
    reals = (float(stack.signed), around.return_scale, around.most, *stack.epsilons)
    pieces = [
        number
        for piece in around.pieces
        for number in (
            act_loops.KINDS[piece.kind], int(piece.whole), piece.inputs, piece.outputs,
            *addresses(piece.tensors),
        )
    ]  # fmt: skip
    numbers = np.array(reals, np.float32), np.array(sizes, np.int64), np.array(pieces, np.int64)
    return replace(
        plan,
        constants=(addresses((*stack.weights, *own)), *numbers),
        centered=(addresses((*stack.weights, *centered)), *numbers),
    )


def _both(linear: nn.Linear | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if linear is None else (linear.weight, linear.bias)
