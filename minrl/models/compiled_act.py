"""One step of an agent as one compiled call on a CPU: which agents have one, their parts, and the call.

Shapes: B batch, O observation, A action, D width, S state size.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from minrl.agent import Actor, Moment
from minrl.backbone import Backbone
from minrl.backbone.compiled_step import takes
from minrl.backbone.weights import StackWeights, addresses, stack_weights
from minrl.cells import Cell
from minrl.kernels.guard import Watch, may_run, plain, planned, readable
from minrl.models.encoders import ActionUnits, Normalizer
from minrl.models.head_parts import Binary, Binned, Gaussian, OneHot, Part, Scaled, SquaredError
from minrl.models.heads import ActionHead


@dataclass(frozen=True)
class Inputs:
    """Parts of an agent with one token a step, the sum of the present embeddings.

    Its acting state is target return, earned return and time step, if there is `embed_return`, the previous action in
    `action_units`, and the backbone's state.
    """

    normalizer: Normalizer
    embed_observation: nn.Linear
    backbone: Cell
    head: ActionHead
    action_units: ActionUnits
    embed_action: nn.Linear | None = None
    embed_return: nn.Linear | None = None
    embed_time: nn.Embedding | None = None
    return_scale: float = 1.0
    most: float = float("inf")  # the largest target return
    attributes: tuple[str, ...] = ()  # further attributes of the agent that these parts depend on


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
class CompiledAct:
    """Compiled step of an agent; the values of the weights are read at every call."""

    kernel: Callable[..., None]
    constants: tuple[Any, ...]
    centered: tuple[Any, ...]  # the constants for centred observations
    width: int
    observation_size: int
    action_size: int
    state_size: int
    columns: int  # of the state before the previous action: target return, earned return and time step, or none
    certain: bool  # True if a sample is the most likely action
    watch: Watch


_plans: WeakKeyDictionary[nn.Module, CompiledAct | None] = WeakKeyDictionary()


def fused_step(
    agent: Actor, inputs: Callable[[], Inputs | None], moment: Moment, state: Tensor, *, deterministic: bool
) -> tuple[Tensor, Tensor] | None:
    """Compute `agent.act` by one compiled call for an agent of `inputs()`; return None if there is none."""
    start = moment.episode_start
    if moment.action_masks is not None or not may_run() or start.dtype is not torch.bool or start.dim() != 1:
        return None
    plan = planned(_plans, agent, lambda agent: _build(agent, inputs()))
    if plan is None or plan.watch.has_dropout():
        return None
    decides = deterministic or plan.certain
    seen = moment.observation
    if wide := seen.dtype is torch.float64:
        normalizer: Any = agent.normalizer
        seen = normalizer.centered(seen)
    done = run(plan, seen, moment.reward, start, state, decides=decides, centered=wide)
    if done is None or decides:
        return done
    features, state = done
    parts: Any = agent
    action = parts.head.act(features, deterministic=False)
    state[:, plan.columns : plan.columns + plan.action_size] = parts.action_units(action)
    return action, state


def run(
    plan: CompiledAct, observation: Tensor, reward: Tensor, start: Tensor, state: Tensor, *, decides: bool,
    centered: bool,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
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


def overrides(agent: Actor, base: type[Actor], *names: str) -> bool:
    """Return True if the agent overrides one of these methods of `base`, so that `Inputs` do not describe it."""
    return any(name in vars(agent) or getattr(type(agent), name) is not getattr(base, name) for name in names)


def _build(agent: Any, inputs: Inputs | None) -> CompiledAct | None:
    """Build the compiled step of an agent, valid until a part or one of `attributes` is replaced."""
    if inputs is None or type(inputs.backbone) is not Backbone or type(inputs.normalizer) is not Normalizer:
        return None
    if type(inputs.head) is not ActionHead or type(inputs.action_units) is not ActionUnits:
        return None
    linears = inputs.embed_observation, inputs.embed_return, inputs.embed_action, inputs.head.linear
    if any(linear is not None and type(linear) is not nn.Linear for linear in linears):
        return None
    if inputs.embed_time is not None and inputs.embed_time.max_norm is not None:
        return None
    stack, pieces = stack_weights(inputs.backbone), _pieces(inputs.head, inputs.action_units)
    if stack is None or pieces is None:
        return None
    return _plan(agent, inputs, stack, pieces)


def _plan(agent: Any, inputs: Inputs, stack: StackWeights, pieces: list[Piece]) -> CompiledAct | None:
    normalizer, time = inputs.normalizer, None if inputs.embed_time is None else inputs.embed_time.weight
    layers = [
        *_both(inputs.embed_observation), *_both(inputs.embed_return), time, *_both(inputs.embed_action),
        *_both(inputs.head.linear),
    ]  # fmt: skip
    nothing, shift = torch.zeros_like(normalizer.mean), [normalizer.mean, normalizer.rest]
    of_pieces = [tensor for piece in pieces for tensor in piece.tensors]
    every = (*stack.weights, *shift, normalizer.std, *layers, nothing, *of_pieces)
    tensors = [tensor for tensor in every if tensor is not None]
    watch = Watch.over(agent, tensors, [(agent, name) for name in inputs.attributes])
    if watch is None or not readable(tensors):
        return None
    from minrl.kernels.backbone import act_loops, cells, step_loops  # they import numba

    columns = 0 if inputs.embed_return is None else act_loops.OF_RETURNS
    observation_size, action_size = normalizer.mean.numel(), agent.task.action_size
    state_size = columns + action_size + stack.state_size
    outputs, longest = sum(piece.inputs for piece in pieces), 0 if time is None else time.shape[0]
    sizes = (
        *stack.sizes,
        *cells.of_kind(stack.kind, stack.sizes[1]),
        step_loops.blocks_address(),
        columns,
        observation_size,
        action_size,
        outputs,
        longest,
        state_size,
    )
    reals = (float(stack.signed), inputs.return_scale, inputs.most, *stack.epsilons)
    coded = [
        number
        for piece in pieces
        for number in (
            act_loops.KINDS[piece.kind], int(piece.whole), piece.inputs, piece.outputs, *addresses(piece.tensors),
        )
    ]  # fmt: skip
    numbers = np.array(reals, np.float32), np.array(sizes, np.int64), np.array(coded, np.int64)
    return CompiledAct(
        kernel=act_loops.act_kernel(),
        constants=(addresses((*stack.weights, *shift, normalizer.std, *layers)), *numbers),
        centered=(addresses((*stack.weights, nothing, nothing, normalizer.std, *layers)), *numbers),
        width=stack.sizes[0],
        observation_size=observation_size,
        action_size=action_size,
        state_size=state_size,
        columns=columns,
        certain=all(type(part) is SquaredError for part in inputs.head.parts),
        watch=watch,
    )


def _both(linear: nn.Linear | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if linear is None else (linear.weight, linear.bias)


def _pieces(head: ActionHead, units: ActionUnits) -> list[Piece] | None:
    """Return the head's parts in the kernel's form; None if it does not support one."""
    pieces = []
    for part in cast("Iterable[Part]", head.parts):
        width = part.columns.stop - part.columns.start
        piece = partial(Piece, whole=part.whole)
        if units.standardizes and isinstance(part, Scaled | Binned):
            mean, inverse = (units.get_buffer(name)[part.columns] for name in ("mean", "inverse"))
            piece = partial(piece, mean=mean, inverse=inverse)
        if type(part) is SquaredError or type(part) is Gaussian:
            if not part.squashed:
                piece = partial(piece, low=part.get_buffer("low"), high=part.get_buffer("high"))
            kind = "tanh" if part.squashed else "line"
            pieces.append(piece(kind, inputs=part.inputs, outputs=width, first=part.center, second=part.reach))
        elif type(part) is Binned:
            pieces.append(piece("bins", inputs=part.inputs, outputs=width, first=part.low, second=part.interval))
        elif type(part) is OneHot:
            pieces += [piece("choice", inputs=size, outputs=size) for size in part.sizes]
        elif type(part) is Binary:
            pieces.append(piece("binary", inputs=width, outputs=width))
        else:
            return None
    return pieces
