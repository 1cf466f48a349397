"""Where the parameters of a policy and their gradients lie, in the order of the compiled update.

Shapes: D width, H inner width, M hidden width of an MLP, K taps, S state size.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from torch import Tensor, nn

from minrl.backbone.weights import EVERY, cell_weights, stack_weights
from minrl.kernels.kinds import LSTM, CellKind
from minrl.online.compiled.conditions import ACTIVATIONS, HEADS
from minrl.online.compiled.memory import Arena, address, words

# Parts of a block's addresses, and of the sums over rows among the gradients to a block (`BlockLayout.sums`).
_PER_BLOCK = 15
_SUMS = {0: 0, 1: 1, 2: 2, 3: 3, 5: 4, 9: 5, 10: 6, 14: 7, 12: 8}


@dataclass
class TrunkLayout:
    """Weights of one trunk in the kernels' order (0 where there is none) and where their gradients go."""

    weights: list[Tensor | None]
    gradients: list[int]


@dataclass
class PolicyLayout:
    """Parameters of a policy and their gradients."""

    arena: Arena
    kind: CellKind
    layers: bool  # recurrent layers alone, no blocks
    flip: Any
    epsilons: Any
    inputs: int
    previous: int  # columns of the inputs from the previous step
    width: int
    depth: int
    inner: int
    hidden: int
    taps: int
    state_size: int  # of the policy
    memory: int  # of one trunk
    critic: int
    head: int
    raw: int
    actions: int
    activation: int
    pieces: Any
    trunks: list[TrunkLayout]
    heads: list[list[tuple[nn.Linear, int, int]]]  # of actor and critic: layers and their gradients' addresses
    front: tuple[nn.Linear, int, int] | None
    sums: Any  # gradients that are sums over rows
    log_std: Tensor | None
    dlog_std: int
    parameters: list[tuple[Tensor, int]] = field(default_factory=list)


def policy_layout(policy: Any) -> PolicyLayout:
    """Return the layout of a policy that `minrl.online.compiled.conditions.obstacle` lets pass."""
    from minrl.kernels.ppo import distributions, update  # they import numba

    parameter = next(iter(policy.parameters()))
    kind = np.float64 if parameter.dtype == torch.float64 else np.float32
    arena, space = Arena(kind), policy.action_space
    is_backbone = policy.formulas == "backbone"
    trunk = _Backbone(policy, arena) if is_backbone else _Layers(policy, arena)
    heads = policy.mlp_extractor
    nets = [[*heads.policy_net, policy.action_net], [*heads.value_net, policy.value_net]]
    activations = [type(layer) for layer in (*heads.policy_net, *heads.value_net) if type(layer) is not nn.Linear]
    log_std = policy.log_std if isinstance(space, spaces.Box) else None
    front = policy.critic if not is_backbone else None
    sums = arena.array(trunk.sums_size + (0 if log_std is None else log_std.numel()))
    at = int(sums.ctypes.data)
    layouts = trunk.layouts(at)
    layout = PolicyLayout(
        arena=arena,
        kind=trunk.kind,
        layers=not is_backbone,
        flip=kind(trunk.flip),
        epsilons=np.array(trunk.epsilons, kind),
        inputs=trunk.inputs,
        previous=policy.previous_size,
        width=trunk.width,
        depth=trunk.depth,
        inner=trunk.inner,
        hidden=trunk.hidden,
        taps=trunk.taps,
        state_size=policy.state_size,
        memory=policy.memory_size,
        critic=(
            (update.OWN if len(layouts) == 2 else update.SHARED)
            if is_backbone
            else (update.OWN if len(layouts) == 2 else update.LINEAR if front is not None else update.DETACHED)
        ),
        head=(distributions.CHOICES, distributions.CHOICES, distributions.BINARY, distributions.GAUSSIAN)[
            HEADS.index(type(policy.action_dist))
        ],
        raw=policy.action_net.out_features,
        actions=get_action_dim(space),
        activation=ACTIVATIONS.index(activations[0]) if activations else 0,
        pieces=words(_choices(space)),
        trunks=layouts,
        heads=[[_of_layer(layer, arena) for layer in net if type(layer) is nn.Linear] for net in nets],
        front=None if front is None else _of_layer(front, arena),
        sums=sums,
        log_std=log_std,
        dlog_std=0 if log_std is None else at + trunk.sums_size * arena.dtype.itemsize,
    )
    layout.parameters = _parameters(layout)
    return layout


def _choices(space: Any) -> list[int]:
    """Return how many choices each component of a discrete action has."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [int(n) for n in space.nvec.reshape(-1)] if isinstance(space, spaces.MultiDiscrete) else []


def _parameters(layout: PolicyLayout) -> list[tuple[Tensor, int]]:
    """List all parameters with the addresses of their gradients."""
    found: list[tuple[Tensor, int]] = []
    for trunk in layout.trunks:
        found += [(w, g) for w, g in zip(trunk.weights, trunk.gradients, strict=True) if w is not None]
    layers = [layer for net in layout.heads for layer in net] + ([] if layout.front is None else [layout.front])
    for layer, dweight, dbias in layers:
        found.append((layer.weight, dweight))
        if layer.bias is not None:
            found.append((layer.bias, dbias))
    return found if layout.log_std is None else [*found, (layout.log_std, layout.dlog_std)]


def _of_layer(layer: nn.Linear, arena: Arena) -> tuple[nn.Linear, int, int]:
    bias = 0 if layer.bias is None else arena.take(layer.out_features)
    return layer, arena.take(layer.out_features, layer.in_features), bias


class _Backbone:
    """Trunks of blocks."""

    def __init__(self, policy: Any, arena: Arena) -> None:
        self._arena = arena
        self._trunks: list[Any] = [trunk for trunk in (policy.trunk, policy.critic_trunk) if trunk is not None]
        embed = self._trunks[0].embed
        found = [stack_weights(trunk.backbone, embed.weight.dtype, EVERY) for trunk in self._trunks]
        self._stacks = [stack for stack in found if stack is not None]
        stack = self._stacks[0]
        self.inputs = embed.in_features
        self.kind = stack.kind
        self.flip, self.epsilons = float(stack.signed), stack.epsilons
        self.width, self.inner, self.hidden, self.taps, self.depth = stack.sizes
        width = self.width
        self._sizes = (
            width, width, max(self.taps, 1) * width, width, self.kind.parts * self.inner,
            width, width, width, self.hidden, width,
        )  # fmt: skip
        self._of_trunk = self.depth * sum(self._sizes) + 3 * width
        self.sums_size = self._of_trunk * len(self._trunks)

    def layouts(self, at: int) -> list[TrunkLayout]:
        """Return the layouts, with the gradients that are sums over rows from `at` on."""
        size, found = self._arena.dtype.itemsize, []
        starts = np.cumsum((0, *self._sizes)).tolist()
        for trunk, stack in zip(self._trunks, self._stacks, strict=True):
            embed = trunk.embed
            weights = [embed.weight, embed.bias, *stack.weights]
            gradients = [self._arena.take(*embed.weight.shape), self._arena.take(self.width)]
            for i in range(self.depth):
                first = at + i * starts[-1] * size
                for part in range(_PER_BLOCK):
                    if part in _SUMS:
                        gradients.append(first + starts[_SUMS[part]] * size)
                    else:
                        weight = stack.weights[i * _PER_BLOCK + part]
                        gradients.append(0 if weight is None else self._arena.take(*weight.shape))
            of_norm = at + self.depth * starts[-1] * size
            gradients += [of_norm, of_norm + self.width * size]
            found.append(TrunkLayout(weights, gradients))
            at += self._of_trunk * size
        return found


class _Layers:
    """Trunks of LSTM layers."""

    kind, flip, hidden, taps, sums_size = CellKind(LSTM), 0.0, 0, 0, 0
    epsilons: tuple[float, ...] = ()

    def __init__(self, policy: Any, arena: Arena) -> None:
        self._arena = arena
        self._lstms = [lstm for lstm in (policy.lstm_actor, policy.lstm_critic) if lstm is not None]
        lstm = self._lstms[0]
        self.inputs, self.width, self.depth = lstm.input_size, lstm.hidden_size, lstm.num_layers
        self.inner = self.width

    def layouts(self, at: int) -> list[TrunkLayout]:
        """Return the layouts; none of the gradients lies at `at`."""
        found = []
        for lstm in self._lstms:
            weights = [weight for layer in cell_weights(lstm) for weight in layer]
            found.append(TrunkLayout(weights, [0 if w is None else self._arena.take(*w.shape) for w in weights]))
        return found


def trunk_addresses(layout: PolicyLayout) -> tuple[Any, Any]:
    """Return the addresses of the trunks' weights and of their gradients."""
    weights = words([[address(weight) for weight in trunk.weights] for trunk in layout.trunks])
    return weights, words([trunk.gradients for trunk in layout.trunks])
