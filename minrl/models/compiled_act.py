"""One step of an agent as one compiled call on a CPU: which agents have one, and their parts.

Shapes: B batch, D width, S state size.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from minrl.agent import Actor, Moment
from minrl.backbone import Backbone
from minrl.backbone.weights import stack_weights
from minrl.cells import Cell
from minrl.kernels.guard import may_run
from minrl.models.compiled_call import Piece, Plan, Surroundings, plan_of, run
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


_plans: WeakKeyDictionary[nn.Module, Plan | None] = WeakKeyDictionary()


def fused_step(
    agent: Actor, inputs: Callable[[], Inputs | None], moment: Moment, state: Tensor, *, deterministic: bool
) -> tuple[Tensor, Tensor] | None:
    """Compute `agent.act` by one compiled call for an agent of `inputs()`; return None if there is none."""
    start = moment.episode_start
    if not may_run() or start.dtype is not torch.bool or start.dim() != 1:
        return None
    plan = _plans.get(agent)
    if plan is None or not plan.watch.holds():
        plan = _plans[agent] = _build(agent, inputs())
    if plan is None or plan.watch.drops():
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


def overrides(agent: Actor, base: type[Actor], *names: str) -> bool:
    """Return True if the agent overrides one of these methods of `base`, so that `Inputs` do not describe it."""
    return any(name in vars(agent) or getattr(type(agent), name) is not getattr(base, name) for name in names)


def _build(agent: Actor, inputs: Inputs | None) -> Plan | None:
    if inputs is None or type(inputs.backbone) is not Backbone or type(inputs.normalizer) is not Normalizer:
        return None
    time = inputs.embed_time
    if type(inputs.head) is not ActionHead or type(inputs.action_units) is not ActionUnits:
        return None
    if time is not None and time.max_norm is not None:
        return None
    stack, pieces = stack_weights(inputs.backbone), _pieces(inputs.head, inputs.action_units)
    if stack is None or pieces is None:
        return None
    around = Surroundings(
        mean=inputs.normalizer.mean,
        std=inputs.normalizer.std,
        rest=inputs.normalizer.rest,
        observation=inputs.embed_observation,
        action_size=agent.task.action_size,
        head=inputs.head.linear,
        pieces=tuple(pieces),
        returns=inputs.embed_return,
        return_scale=inputs.return_scale,
        most=inputs.most,
        time=None if time is None else time.weight,
        action=inputs.embed_action,
        certain=all(type(part) is SquaredError for part in inputs.head.parts),
    )
    return plan_of(agent, stack, around, [(agent, name) for name in inputs.attributes])


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
