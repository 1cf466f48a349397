"""One step of a policy as one compiled call, for rollouts and for `predict`.

Shapes: B environments, F features, P previous action and reward, S state size, K raw outputs, A action width.
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from minrl.backbone.compiled_step import takes
from minrl.data.masks.action_masks import added_to_logits
from minrl.kernels.guard import Watch, runs_alone
from minrl.online.compiled.conditions import has_own_methods, obstacle
from minrl.online.compiled.layout import PolicyLayout, policy_layout, trunk_addresses
from minrl.online.compiled.memory import address, words
from minrl.online.compiled.update import parts_of
from minrl.online.policy import RecurrentPolicy

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CompiledAct:
    """The compiled step of a policy; the values of its weights are read anew at every call."""

    kernel: Any
    plan: Any  # int64
    reals: Any  # float32
    layout: PolicyLayout
    watch: Watch
    pieces: tuple[int, ...]
    is_flat: bool  # observations are features as they are

    def noise(self, batch: int) -> Tensor:
        """Draw what a sample of B actions needs, the numbers that torch's operations draw."""
        from minrl.kernels.ppo import distributions  # it imports numba

        layout = self.layout
        if layout.head == distributions.GAUSSIAN:
            return torch.empty(batch, layout.actions).normal_()
        if layout.head == distributions.BINARY:
            return torch.rand(batch, layout.actions)
        noise = torch.empty(batch * layout.raw)
        if len(self.pieces) == 1:
            return noise.view(batch, layout.raw).exponential_()
        for part in noise.split([batch * count for count in self.pieces]):
            part.exponential_()
        return noise

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


def compiled_act(policy: RecurrentPolicy) -> CompiledAct | None:
    """Return the compiled step of a policy, made anew where a part was replaced; None where there is none."""
    if not runs_alone() or has_own_methods(policy):
        return None
    found = _acts.get(policy)
    if found is None or not found.watch.is_valid() or getattr(policy, "log_std", None) is not found.layout.log_std:
        found = _acts[policy] = _build(policy)
    return found


def _build(policy: Any) -> CompiledAct | None:
    if obstacle(policy) is not None:
        return None
    layout = policy_layout(policy)
    watch = Watch.over(parts_of(policy), [parameter for parameter, _ in layout.parameters])
    if watch is None or layout.arena.dtype != np.float32:
        return None
    from minrl.kernels.ppo import act  # it imports numba

    space = policy.observation_space
    return CompiledAct(
        kernel=act.act(layout.parts, layout.candidate),
        plan=act_plan(layout),
        reals=np.array([layout.flip, *layout.epsilons], np.float32),
        layout=layout,
        watch=watch,
        pieces=tuple(layout.pieces.tolist()),
        is_flat=isinstance(space, spaces.Box) and space.dtype != np.uint8,
    )


def act_plan(layout: PolicyLayout) -> Any:
    """Return the plan of `minrl.kernels.ppo.act.act_rows`: sizes, kinds, and where the weights lie."""
    from minrl.kernels.ppo import act

    weights, _ = trunk_addresses(layout)
    nets = *layout.heads, [] if layout.front is None else [layout.front]
    actor, critic, front = ([x for layer, _, _ in net for x in _of_layer(layer)] for net in nets)
    # A backbone's inputs are features, a flag and the previous step; an LSTM's are features alone.
    previous = layout.previous if layout.parts else -1
    features = layout.inputs - (previous + 1)
    first = act.PLAN
    starts = np.cumsum([first, weights.size, len(actor), len(critic), len(front), len(layout.pieces)]).tolist()
    head = [
        features, previous, layout.width, layout.depth, layout.inner, layout.hidden, layout.taps, layout.state_size,
        layout.memory, len(weights), layout.critic, layout.head, layout.raw, layout.actions, layout.activation,
        0 if layout.log_std is None else layout.log_std.data_ptr(), starts[0], weights.shape[1], *starts[1:],
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


def predict(
    policy: Any,
    observation: Any,
    state: Any,
    episode_start: Any,
    deterministic: bool,
    reward: Any,
    masks: Any = None,
) -> tuple[Array, tuple[Any, ...] | None]:
    """Predict as `RecurrentPolicy.predict` does, by one compiled call for plain observations where there is one."""
    compiled = compiled_act(policy) if type(observation) is np.ndarray and not policy.previous_size else None
    shape = policy.observation_space.shape
    if compiled is None or not compiled.is_flat or observation.shape[-len(shape) :] != shape:
        return policy.predict(observation, state, episode_start, deterministic, reward, masks)  # type: ignore[no-any-return]
    count = 1 if observation.ndim == len(shape) else len(observation)
    is_known = state is None or (type(state) is tuple and len(state) == (1 if compiled.layout.parts else 2))
    if observation.ndim > len(shape) + 1 or not takes(count) or not is_known:
        return policy.predict(observation, state, episode_start, deterministic, reward, masks)  # type: ignore[no-any-return]
    return _predict(compiled, policy, observation, state, episode_start, deterministic, masks, count)


def _predict(
    compiled: CompiledAct, policy: Any, observation: Array, state: Any, episode_start: Any, deterministic: bool,
    masks: Any, count: int,
) -> tuple[Array, tuple[Array, ...]]:  # fmt: skip
    """Run `predict` for `count` observations that fit."""
    if policy.training:
        policy.set_training_mode(False)
    layout, size = compiled.layout, policy.state_size
    rows = torch.from_numpy(np.ascontiguousarray(observation, np.float32))
    starts = torch.zeros(count, dtype=torch.bool)
    if episode_start is not None:
        opens = np.asarray(episode_start).reshape(-1) > 0
        if len(opens) != count:
            raise ValueError(f"episode_start has {len(opens)} entries for {count} observations")
        starts = torch.from_numpy(opens)
    if state is None:
        memory = torch.zeros(count, size)
    elif layout.parts and _is_plain(state[0], (count, size)):
        memory = torch.from_numpy(np.ascontiguousarray(state[0]))
    else:
        memory = policy._memory(state, count)
        if memory.shape[1] < size:  # that of an LSTM has no state of the critic
            memory = torch.cat([memory, memory.new_zeros(count, size - memory.shape[1])], dim=1)
    noise, added = None if deterministic else compiled.noise(count), added_to_logits(policy.action_space, masks, count)
    # Actions, values, log-likelihoods and the next state one after another.
    width = count * layout.actions
    out = torch.empty(width + 2 * count + count * size)
    at, item = out.data_ptr(), out.element_size()
    compiled.kernel(
        compiled.plan, compiled.reals, rows.data_ptr(), starts.data_ptr(), 0, memory.data_ptr(),
        address(noise), address(added), at, at + width * item, at + (width + count) * item,
        at + (width + 2 * count) * item, count,
    )  # fmt: skip
    actions, last = out[:width].numpy(), out[width + 2 * count :].view(count, size)
    if compiled.pieces:
        actions = actions.astype(np.int64)
    chosen = policy.to_environment(actions.reshape(count, *policy.action_space.shape))
    is_one = observation.ndim == len(policy.observation_space.shape)
    return (chosen[0] if is_one else chosen), policy._state(last)


def _is_plain(x: Any, shape: tuple[int, ...]) -> bool:
    return type(x) is np.ndarray and x.dtype == np.float32 and x.shape == shape
