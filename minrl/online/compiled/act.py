"""Steps of a policy, each one compiled call.

Shapes: B environments, F features, P previous action and reward, S state size, K raw outputs, A action width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from minrl.backbone.compiled_step import takes
from minrl.kernels.guard import Watch, runs_alone
from minrl.online.compiled.conditions import OF_PREDICT, has_own_methods, is_overridden, obstacle
from minrl.online.compiled.layout import PolicyLayout, policy_layout, trunk_addresses
from minrl.online.compiled.memory import address, words
from minrl.online.compiled.update import parts_of


@dataclass(frozen=True)
class CompiledAct:
    """The compiled step of a policy; the values of its weights are read anew at every call."""

    kernel: Any
    plan: Any  # int64
    reals: Any  # float32
    layout: PolicyLayout
    watch: Watch
    actor: Watch  # of what `predict` depends on
    pieces: tuple[int, ...]
    is_flat: bool  # observations are features as they are
    predicts: bool  # so is `predict` in this call
    workspaces: list[Any] = field(default_factory=list)  # of `predict`, those not in use

    def noise(self, batch: int) -> Tensor:
        """Draw what a sample of B actions needs, the numbers that torch's operations draw."""
        noise, draws = self.noise_buffer(batch)
        for draw in draws:
            draw()
        return noise

    def noise_buffer(self, batch: int) -> tuple[Tensor, tuple[Callable[[], Any], ...]]:
        """Return a buffer for the noise of B actions, and the functions that draw it anew."""
        from minrl.kernels.ppo import distributions  # it imports numba

        layout = self.layout
        if layout.head in (distributions.GAUSSIAN, distributions.BINARY):
            noise = torch.empty(batch, layout.actions, dtype=torch.float32, device="cpu")
            return noise, (noise.normal_ if layout.head == distributions.GAUSSIAN else noise.uniform_,)
        noise = torch.empty(batch * layout.raw, dtype=torch.float32, device="cpu")
        return noise, tuple(part.exponential_ for part in noise.split([batch * count for count in self.pieces]))

    def __call__(
        self, features: Tensor, state: Tensor, starts: Tensor, previous: Tensor | None, deterministic: bool,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Compute actions (B, A), values (B, 1), log-likelihoods (B,) and next state from contiguous tensors.

        Args:
            features: (B, F) float32.
            state: (B, S).
            starts: (B,) bool, True where an episode begins.
            previous: (B, P); None for zeros.
            deterministic: take the likeliest action instead of a sample.
            masks: (B, K) added to the raw outputs.
        """
        batch, layout = features.shape[0], self.layout
        actions, last = torch.empty(batch, layout.actions), torch.empty_like(state)
        values, log_probs = torch.empty(batch, 1), torch.empty(batch)
        noise = None if deterministic else self.noise(batch)
        self.kernel(
            self.plan, self.reals, features.data_ptr(), starts.data_ptr(),
            address(previous), state.data_ptr(), address(noise), address(masks), actions.data_ptr(), values.data_ptr(),
            log_probs.data_ptr(), last.data_ptr(), batch,
        )  # fmt: skip
        return actions, values, log_probs, last


_acts: WeakKeyDictionary[nn.Module, CompiledAct | None] = WeakKeyDictionary()


def compiled_act(policy: Any, *, values: bool = True) -> CompiledAct | None:
    """Return the compiled step of a policy, made anew where a part was replaced; None where there is none.

    Args:
        policy: a `RecurrentPolicy`.
        values: False if the kernel is to leave out the critic, whose parts may then have been replaced.
    """
    if not runs_alone() or has_own_methods(policy):
        return None
    found = _acts.get(policy)
    if (
        found is None
        or not (found.watch if values else found.actor).is_valid()
        or policy._parameters.get("log_std") is not found.layout.log_std
    ):
        found = _acts[policy] = _build(policy)
    return found


def _watch_of_actor(policy: Any, layout: PolicyLayout) -> Watch | None:
    """Watch a policy without its critic, which `predict` does not read."""
    critic = ("value_net", "lstm_critic", "critic", "critic_trunk")
    parts = nn.ModuleList([part for name, part in policy.named_children() if name not in critic])
    own = {id(parameter) for parameter in (*parts.parameters(), layout.log_std)}
    watch = Watch.over(parts, [parameter for parameter, _ in layout.parameters if id(parameter) in own])
    if watch is None:
        return None
    return replace(
        watch,
        children=[*watch.children, policy._modules],  # where a part may be replaced
        children_then=[*watch.children_then, dict(policy._modules)],
    )


def _build(policy: Any) -> CompiledAct | None:
    if obstacle(policy) is not None:
        return None
    layout = policy_layout(policy)
    watch = Watch.over(parts_of(policy), [parameter for parameter, _ in layout.parameters])
    actor = _watch_of_actor(policy, layout)
    if watch is None or actor is None or layout.arena.dtype != np.float32:
        return None
    from minrl.kernels.ppo import act  # it imports numba

    space = policy.observation_space
    is_flat = isinstance(space, spaces.Box) and space.dtype != np.uint8
    return CompiledAct(
        kernel=act.act(),
        plan=act_plan(layout),
        reals=np.array([layout.flip, *layout.epsilons], np.float32),
        layout=layout,
        watch=watch,
        actor=actor,
        pieces=tuple(layout.pieces.tolist()),
        is_flat=is_flat,
        predicts=is_flat and not any(is_overridden(policy, name) for name in OF_PREDICT),
    )


def act_plan(layout: PolicyLayout) -> Any:
    """Return the plan of `minrl.kernels.ppo.act.act_rows`: sizes, kinds, and where the weights lie."""
    from minrl.kernels.backbone import cells, step_loops  # they import numba
    from minrl.kernels.ppo import act

    weights, _ = trunk_addresses(layout)
    nets = *layout.heads, [] if layout.front is None else [layout.front]
    actor, critic, front = ([x for layer, _, _ in net for x in _of_layer(layer)] for net in nets)
    # The inputs of blocks are features, a flag and the previous step; those of layers alone are features.
    previous = -1 if layout.layers else layout.previous
    features = layout.inputs - (previous + 1)
    first = act.PLAN
    starts = np.cumsum([first, weights.size, len(actor), len(critic), len(front), len(layout.pieces)]).tolist()
    head = [
        features, previous, int(layout.layers), layout.width, layout.depth, layout.inner, layout.hidden, layout.taps,
        *cells.of_kind(layout.kind, layout.inner), layout.state_size, layout.memory, len(weights), layout.critic,
        layout.head, layout.raw, layout.actions, layout.activation,
        0 if layout.log_std is None else layout.log_std.data_ptr(), starts[0], weights.shape[1], *starts[1:],
        act.act_address(), 0 if layout.layers else step_loops.blocks_address(),
    ]  # fmt: skip
    return words([*head, *weights.reshape(-1).tolist(), *actor, *critic, *front, *layout.pieces.tolist()])


def _of_layer(layer: nn.Linear) -> tuple[int, ...]:
    return layer.weight.data_ptr(), address(layer.bias), layer.in_features, layer.out_features


@torch.no_grad()
def step(
    policy: Any, observations: Any, state: Tensor, starts: Any, previous: Tensor, compiled: CompiledAct | None,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Sample actions as `RecurrentPolicy.forward` does, by one compiled call where there is one.

    Args:
        policy: a `RecurrentPolicy`.
        observations: of B environments, as the environments give them.
        state, previous: as for the policy, (B, S) and (B, P).
        starts: (B,) bool.
        compiled: from `compiled_act`.
        masks: (B, K) added to the raw outputs.
    """
    if compiled is None or not takes(len(starts)):
        tensors = obs_as_tensor(observations, policy.device)
        found: tuple[Tensor, Tensor, Tensor, Tensor] = policy(
            tensors, state, torch.from_numpy(starts).to(policy.device), previous, masks=masks
        )
        return found
    if compiled.is_flat:
        features = torch.from_numpy(np.ascontiguousarray(observations, np.float32))
    else:
        features = policy._features(obs_as_tensor(observations, policy.device))[0].contiguous()
    begins = torch.from_numpy(np.ascontiguousarray(starts))
    actions, *others = compiled(
        features, state.contiguous(), begins, previous.contiguous(), deterministic=False, masks=masks
    )
    actions = actions.long() if compiled.pieces else actions
    return actions.view(-1, *policy.action_space.shape), others[0], others[1], others[2]
