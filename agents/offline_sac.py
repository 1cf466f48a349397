"""Recurrent SAC on a data set: an actor follows critics and recorded actions (TD3+BC), along whole trajectories.

The actor's loss is behaviour cloning minus the critics' value, weighed as in Fujimoto and Gu (arXiv 2106.06860,
equation 5), without the entropy of online SAC.

Shapes: B batch, T time, N = B * T, O flat observation width, A flat action width, S state size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from minrl.agent import Agent, Batch, Loss, Moment, Sampler
from minrl.data.batches import Packed
from minrl.data.episode import Episodes
from minrl.data.task import Task
from minrl.models.backbone_config import BackboneConfig
from minrl.models.encoders import Normalizer
from minrl.online.offpolicy.policy import SACPolicy
from minrl.online.offpolicy.replay import Rows
from minrl.online.offpolicy.targets import n_step_targets
from minrl.system.config import check_at_least, setting


@dataclass(frozen=True)
class OfflineSACConfig(BackboneConfig):
    """Settings of an offline actor-critic."""

    width: int = setting(64, "width of the backbones")
    depth: int = setting(2, "blocks of each backbone")
    mlp: float = setting(0.0, "hidden width of each block's MLP over the width, 0 for none")
    critic_cell: str | None = setting(None, "cell of the critics (unset: the actor's)")
    n_critics: int = setting(2, "critics, of which the lowest value counts")
    previous_action: bool = setting(False, "the previous action as an input")
    gamma: float = setting(0.99, "discount factor")
    tau: float = setting(0.05, "part of the way that the target critics move in a step")
    n_steps: int = setting(5, "most rewards in a target, which then bootstraps")
    cloning: float = setting(1.0, "weight of behaviour cloning in the actor's loss, 0 for none")
    alpha: float = setting(1.0, "weight of the critics' value over its mean size, TD3+BC's alpha")
    target_noise: float = setting(0.2, "spread of the noise on the actions of targets")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "n_critics", "n_steps")
        check_at_least(self, 0, "cloning", "alpha", "target_noise")
        for name in ("gamma", "tau"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


class OfflineSACAgent(Agent):
    """Agent of this module, with the settings `config`, for the data set and environment of `task`.

    Raises:
        ValueError: for actions that are no Box and no Discrete.
    """

    name = "offline_sac"
    config_class = OfflineSACConfig
    config: OfflineSACConfig
    low: Tensor
    span: Tensor
    reward_scale: Tensor

    def __init__(self, config: OfflineSACConfig, task: Task) -> None:
        super().__init__(config, task)
        self.normalizer = Normalizer(task.observation_size)
        space: Any = task.action_space
        self.is_discrete = isinstance(space, spaces.Discrete)
        if not isinstance(space, spaces.Box | spaces.Discrete):
            raise ValueError(f"offline_sac takes Box and Discrete actions, got {space}")
        self.action_size = task.action_size
        low, high = task.action_limits() if not self.is_discrete else (torch.zeros(1), torch.ones(1))
        self.register_buffer("low", low.clone())
        self.register_buffer("span", (high - low).clamp_min(1e-6))
        # Rewards in units in which an episode's discounted return is about 1.
        self.register_buffer("reward_scale", torch.ones(()))
        names = "cell", "width", "depth", "conv", "mlp", "critic_cell", "n_critics", "previous_action"
        options: Any = {name: getattr(config, name) for name in names}
        self.policy = SACPolicy(
            spaces.Box(-np.inf, np.inf, (task.observation_size,)),
            spaces.Discrete(self.action_size) if self.is_discrete else spaces.Box(-1.0, 1.0, (self.action_size,)),
            lambda _: 0.0,
            cell_options=config.cell_options or None,
            learns_ent_coef=False,
            **options,
        )
        del self.policy.optimizer  # the run has its own
        self.memory_size = self.policy.stored_size
        self.state_size = self.policy.state_size + self.policy.previous_size

    def fit_normalization(self, episodes: Episodes) -> None:
        """Fit the normalisation as `Agent.fit_normalization` does, and the unit of rewards."""
        self.normalizer.fit(episodes)
        size = float(np.abs(episodes.rewards).mean())
        self.reward_scale.fill_((1 - min(self.config.gamma, 0.999)) / size if size > 0 else 1.0)

    def sampler(self, episodes: Episodes, *, batch_size: int, length: int, seed: int) -> Sampler:
        """Return a sampler as `Agent.sampler` does."""
        return Packed(episodes, batch_size=batch_size, length=length, seed=seed)

    def loss(self, batch: Batch, memory: Tensor | None = None) -> Loss:
        """Compute the critics' loss and the actor's as `Agent.loss` does; while training, move the target critics."""
        if batch.rewards is None or batch.terminal is None:
            raise ValueError("offline_sac learns from rewards and ends of episodes, which this batch lacks")
        policy, config = self.policy, self.config
        if self.training:
            policy.update_target(config.tau)
        rows = self._rows(batch, memory)
        latents = policy.latents(rows)
        actor, critic, target = (x.flatten(0, 1) for x in latents[:3])
        heads: Any = policy.critic.heads
        outputs, taken = policy.parameters_of_actions(actor), rows.actions.flatten(0, 1)
        with torch.no_grad():
            values = self._value(policy.critic_target.heads, target, outputs, noise=config.target_noise)
            values = values.view(batch.reset.shape)
            rewards = batch.rewards * self.reward_scale
            # A terminated episode is worth its last reward there; after a time limit the next value is not recorded.
            values = torch.where(batch.terminal, rewards, values)
            targets = n_step_targets(rewards, values, rows.last, config.gamma, config.n_steps).flatten()
        counts = ((~rows.last | batch.terminal) & batch.mask).flatten()
        if self.is_discrete:
            judged = heads(critic).gather(2, taken.expand(len(heads.weights[0]), -1, -1)).squeeze(2)
        else:
            judged = heads(torch.cat([critic, taken], dim=1)).squeeze(2)
        of_critics = 0.5 * (judged - targets).square().sum(0)[counts].mean()
        value = self._value(heads, critic.detach(), outputs, frozen=True)
        weight = config.alpha / value.detach().abs().mean().clamp_min(1e-6)
        if self.is_discrete:
            cloned = F.cross_entropy(outputs, taken.squeeze(1), reduction="none")
        else:
            cloned = (torch.tanh(outputs.chunk(2, dim=1)[0]) - taken).square().mean(1)
        of_actor = (config.cloning * cloned - weight * value)[batch.mask.flatten()].mean()
        count = batch.mask.sum()
        return Loss(total=(of_critics + of_actor) * count, count=count, memory=latents.state.detach())

    def predict(self, batch: Batch) -> Tensor:
        """Predict as `Agent.predict` does."""
        latent = self.policy.latents(self._rows(batch, None)).actor
        outputs = self.policy.parameters_of_actions(latent.flatten(0, 1)).unflatten(0, batch.reset.shape)
        if self.is_discrete:
            return F.one_hot(outputs.argmax(-1), self.action_size).to(outputs.dtype)
        return self._recorded(torch.tanh(outputs.chunk(2, dim=-1)[0]))

    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        """Return the initial state as `Agent.initial_state` does; a target return has no effect."""
        memory = self.policy.initial_state(batch_size)
        return memory.new_zeros(batch_size, self.state_size)

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        """Act as `Agent.act` does."""
        policy = self.policy
        memory, previous = state.split([policy.state_size, policy.previous_size], dim=1)
        distribution, memory = policy.get_distribution(
            self.normalizer(moment.observation), memory, moment.episode_start, previous
        )
        action: Tensor = distribution.get_actions(deterministic=deterministic)
        if policy.previous_size:
            memory = torch.cat([memory, policy.encode_previous(action, None)], dim=1)
        if self.is_discrete:
            return F.one_hot(action, self.action_size).to(state.dtype), memory
        return self._recorded(action), memory

    def _value(
        self, heads: Any, latent: Tensor, outputs: Tensor, *, noise: float = 0.0, frozen: bool = False
    ) -> Tensor:
        """Return the least value (N,) of all critics for the actor's actions, with `noise` on real ones."""
        if self.is_discrete:
            expected: Tensor = (outputs.softmax(1) * heads(latent, frozen=frozen).amin(0)).sum(1)
            return expected
        action = torch.tanh(outputs.chunk(2, dim=1)[0])
        if noise:
            drawn = (noise * torch.randn_like(action)).clamp(-2.5 * noise, 2.5 * noise)
            action = (action + drawn).clamp(-1.0, 1.0)
        value: Tensor = heads(torch.cat([latent, action], dim=1), frozen=frozen).amin(0).squeeze(1)
        return value

    def _rows(self, batch: Batch, memory: Tensor | None) -> Rows:
        observations = self.normalizer(batch.observations)
        if memory is None:
            memory = observations.new_zeros(len(observations), self.memory_size)
        terminal = torch.zeros_like(batch.reset) if batch.terminal is None else batch.terminal
        last = terminal.clone()
        last[:, :-1] |= batch.reset[:, 1:]
        last[:, -1] = True
        actions, previous = (
            x.argmax(-1, keepdim=True) if self.is_discrete else self._bounded(x)
            for x in (batch.actions, batch.previous_actions)
        )
        zeros = torch.zeros_like(batch.reset)
        return Rows(
            observations, previous, batch.returns_to_go, memory, batch.reset, actions, batch.returns_to_go, last, zeros,
            terminal, 0,
        )  # fmt: skip

    def _bounded(self, actions: Tensor) -> Tensor:
        """Convert recorded actions (..., A) to the range [-1, 1]."""
        return (2 * (actions - self.low) / self.span - 1).clamp(-1.0, 1.0)

    def _recorded(self, actions: Tensor) -> Tensor:
        """Convert actions (..., A) in the range [-1, 1] to recorded ones."""
        return self.low + 0.5 * (actions + 1) * self.span
