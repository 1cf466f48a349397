"""Recurrent actor-critic policies on Stable-Baselines3: whole segments in one scan, and one step at a time.

Shapes: B environments or segments, T time, F features, S state size, P width of the previous action and reward,
N = B * T rows that count, A flat action width.
"""

from abc import abstractmethod
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from minrl.data.masks.action_masks import added_to_logits
from minrl.online.actions import bounded, flat_actions, to_environment
from minrl.online.compiled import predict
from minrl.online.inputs.segments import Observations, Segments, between, each
from minrl.online.likelihood import distribution_of, evaluated, sampled
from minrl.online.pretrained.reference import Reference
from minrl.online.spaces import choice_starts

# Features for the actor and the critic; the same tensor twice where they share the extractor.
Features = tuple[Tensor, Tensor]
# Latents of the actor and the critic, and the hidden state of both.
Outputs = tuple[Tensor, Tensor, Tensor]
Array = npt.NDArray[Any]


class RecurrentPolicy(ActorCriticPolicy):
    """Actor and critic with one hidden state tensor (B, S), initially zero.

    Subclasses compute latents from features, over segments and step by step.
    """

    # Whose formulas the kernels have, "backbone" or "lstm", beside the methods of the class that says so.
    formulas: ClassVar[str] = ""
    state_size: int
    previous_action: bool = False
    previous_reward: bool = False
    # Largest |ratio - 1| of the first minibatch of the last update: 0 up to rounding if acting and training agree.
    first_ratio_dev: float = 0.0
    # The pretrained policy and the weight of the KL divergence from it, if it is part of the loss.
    reference: Reference | None
    reference_weight: float = 0.0

    @abstractmethod
    def _scan(self, features: Features, previous: Tensor, state: Tensor, reset: Tensor) -> Outputs:
        """Map (B, T, F), (B, T, P), (B, S), (B, T) bool -> latents of actor and critic (B, T, ·), state (B, S)."""

    @abstractmethod
    def _step(self, features: Features, previous: Tensor, state: Tensor, reset: Tensor) -> Outputs:
        """Map (B, F), (B, P), (B, S), (B,) bool -> latents of actor and critic (B, ·), next state (B, S)."""

    @property
    def acting_size(self) -> int:
        """Return the width of the state that acting needs."""
        return self.state_size

    def visible(self, observation: Any) -> Any:
        """Return the part of an observation that the actor sees."""
        return observation

    def _act(self, obs: Observations, previous: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """Map observations, (B, P), a state of `acting_size`, (B,) bool -> latents of the actor (B, ·), next state."""
        latent, _, state = self._step(self._features(obs), previous, state, reset)
        return latent, state

    def _memory(self, state: tuple[Array, ...], batch_size: int) -> Tensor:
        """Convert the state of `predict` to a tensor (B, S); raise ValueError if it does not fit."""
        if len(state) != 1:
            raise ValueError(f"state must hold one array, got {len(state)}")
        return self._checked(state[0], (batch_size, self.acting_size))

    def _state(self, memory: Tensor) -> tuple[Array, ...]:
        """Convert a hidden state to the state of `predict`."""
        return (memory.cpu().numpy(),)

    @property
    def previous_size(self) -> int:
        """Return P: the flat width of an action, and one for the reward, as far as the policy reads them."""
        return self.previous_action * spaces.flatdim(self.action_space) + self.previous_reward

    def _build(self, lr_schedule: Schedule) -> None:
        self.reference = None
        if self.optimizer_class is torch.optim.Adam and self.optimizer_kwargs.keys() <= {"eps"}:
            # All parameters in one pass; equal up to rounding.
            self.optimizer_kwargs = {**self.optimizer_kwargs, "fused": True}
        self._starts = choice_starts(self.observation_space)
        super()._build(lr_schedule)

    def _precision(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def initial_state(self, batch_size: int) -> Tensor:
        """Return the zero hidden state, (B, S)."""
        return torch.zeros(batch_size, self.state_size, dtype=self._precision(), device=self.device)

    def forward(  # type: ignore[override]
        self,
        obs: Observations,
        state: Tensor,
        reset: Tensor,
        previous: Tensor | None = None,
        deterministic: bool = False,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute one step: actions (B, *shape), values (B, 1), log-likelihoods (B,) and the next state (B, S).

        `masks` (B, K) are added to the logits.
        """
        latent_pi, latent_vf, state = self._step(self._features(obs), self._no_previous(previous, reset), state, reset)
        values = self.value_net(self.mlp_extractor.forward_critic(latent_vf))
        actions, log_prob = sampled(self, self.mlp_extractor.forward_actor(latent_pi), deterministic, masks)
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob, state  # type: ignore[misc]

    def evaluate_actions(self, obs: Segments, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # type: ignore[override]
        """Return values (N, 1), log-likelihoods (N,) and entropies (N,) by one scan over whole segments."""
        return self.evaluated(obs, actions)[:3]

    def evaluated(self, obs: Segments, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
        """Return what `evaluate_actions` does, the actor's latents (N, ·) and the masks (N, K)."""
        latent_pi, latent_vf = (obs.of_valid(x) for x in self._scan_segments(obs)[:2])
        masks = None if obs.masks is None else obs.of_valid(obs.masks)
        values = self.value_net(self.mlp_extractor.forward_critic(latent_vf))
        latent_pi = self.mlp_extractor.forward_actor(latent_pi)
        log_prob, entropy = evaluated(self, latent_pi, actions, masks)
        if obs.old_log_prob is not None:
            ratio = torch.exp(log_prob.detach() - obs.old_log_prob)
            self.first_ratio_dev = float((ratio - 1).abs().max())
        return values, log_prob, entropy, latent_pi, masks

    def predict_values(  # type: ignore[override]
        self, obs: Observations, state: Tensor, reset: Tensor, previous: Tensor | None = None
    ) -> Tensor:
        """Return the values (B, 1) of observations that a state (B, S) precedes; ValueError for the actor's alone."""
        if state.shape[1] != self.state_size:
            raise ValueError(f"values need the whole hidden state, {self.state_size} wide, got {state.shape[1]}")
        _, latent_vf, _ = self._step(self._features(obs), self._no_previous(previous, reset), state, reset)
        values: Tensor = self.value_net(self.mlp_extractor.forward_critic(latent_vf))
        return values

    def get_distribution(  # type: ignore[override]
        self,
        obs: Observations,
        state: Tensor,
        reset: Tensor,
        previous: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Distribution, Tensor]:
        """Return the distribution of actions and the next state (B, S); `masks` (B, K) are added to its logits."""
        latent_pi, state = self._act(obs, self._no_previous(previous, reset), state, reset)
        return distribution_of(self, self.mlp_extractor.forward_actor(latent_pi), masks), state

    def reference_parameters(self, rollout: Segments, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters (B, T, K) of the reference policy's distributions in a rollout, and its last state."""
        assert self.reference is not None
        features, _ = self._segment_features(rollout)
        return self.reference.scan(features, self._no_previous(rollout.previous, rollout.reset), state, rollout.reset)

    @torch.no_grad()
    def states_at(self, rollout: Segments, cuts: list[int]) -> Tensor:
        """Return the hidden states (n, B, S) at the cuts of a rollout, with the current weights."""
        training, states = self.training, [rollout.state]
        self.set_training_mode(False)  # as while acting, without dropout
        for first, end in pairwise(cuts[:-1]):
            states.append(self._scan_segments(between(rollout, first, end)._replace(state=states[-1]))[2])
        self.set_training_mode(training)
        return torch.stack(states)

    def encode_previous(self, actions: Tensor, rewards: Tensor | None) -> Tensor:
        """Return the input (B, P) of the next step from actions (B, *shape) and rewards (B,)."""
        parts = []
        if self.previous_action:
            parts.append(flat_actions(self.action_space, self.environment_actions(actions)))
        if self.previous_reward:
            parts.append(actions.new_zeros(actions.shape[0], 1) if rewards is None else rewards.reshape(-1, 1))
        return torch.cat([part.to(torch.float32) for part in parts], dim=1)

    def predict(
        self,
        observation: Array | dict[str, Array],
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
        reward: Array | float | None = None,
        action_masks: Any | None = None,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return actions for one observation or a batch, and the state for the next call.

        Args:
            observation: one, or B stacked.
            state: returned by the last call; `None` is the zero state.
            episode_start: (B,) True where the observation opens an episode, which resets the state.
            deterministic: the most likely action instead of a sample.
            reward: (B,) of the last actions, for a policy with `previous_reward`.
            action_masks: (B, M) flags of the choices that are allowed, see `minrl.data.masks.action_masks`.

        Raises:
            ValueError: for an observation, state, episode start or mask that does not fit.
        """
        found = predict.predict(self, observation, state, episode_start, deterministic, reward, action_masks)
        if found is not None:
            return found
        if self.training:
            self.set_training_mode(False)
        tensors, vectorized = self.obs_to_tensor(self.visible(observation))
        count = len(next(iter(tensors.values())) if isinstance(tensors, dict) else tensors)
        with torch.no_grad():
            memory, previous = self._unpacked(state, count, reward)
            reset = torch.zeros(count, dtype=torch.bool, device=self.device)
            if episode_start is not None:
                reset = torch.as_tensor(np.asarray(episode_start) > 0, device=self.device).reshape(-1)
                if len(reset) != count:
                    raise ValueError(f"episode_start has {len(reset)} entries for {count} observations")
            previous = self._no_previous(previous, reset)
            latent, memory = self._act(tensors, previous, memory, reset)
            masks = added_to_logits(self.action_space, action_masks, count, self.device)
            actions, _ = sampled(self, self.mlp_extractor.forward_actor(latent), deterministic, masks)
            actions = actions.reshape((-1, *self.action_space.shape))  # type: ignore[misc]
            after = self._state(memory)
            if self.previous_size:
                after = (*after, self.encode_previous(actions, None).cpu().numpy())
        chosen = self.to_environment(actions.cpu().numpy())
        return chosen if vectorized else chosen.squeeze(axis=0), after

    def to_environment(self, actions: Array) -> Array:
        """Convert actions of the distribution to the environment's, see `minrl.online.actions`."""
        return to_environment(self.action_space, actions, squashed=self.squash_output)

    def environment_actions(self, actions: Tensor) -> Tensor:
        """Convert as `to_environment` in torch, so that it can be traced; choices count from 0."""
        return bounded(self.action_space, actions, squashed=self.squash_output)

    def _unpacked(self, state: tuple[Array, ...] | None, count: int, reward: Any) -> tuple[Tensor, Tensor | None]:
        """Return the hidden state (B, S) and the input from the last step (B, P)."""
        if self.previous_reward and reward is None and state is not None:
            raise ValueError(
                "this policy reads the last reward: predict(..., reward=...); for evaluate_policy and EvalCallback, "
                "which have none to give, put it into the observation with the wrapper PreviousReward instead"
            )
        if state is None:
            return self.initial_state(count)[:, : self.acting_size], None
        if not isinstance(state, tuple | list):
            raise ValueError(f"state must be the tuple that predict returned, got {type(state).__name__}")
        state = tuple(state)
        if not self.previous_size:
            return self._memory(state, count), None
        previous = self._checked(state[-1], (count, self.previous_size))
        if self.previous_reward:
            previous[:, -1] = torch.as_tensor(np.asarray(reward, dtype=np.float32))
        return self._memory(state[:-1], count), previous

    def _checked(self, values: Array, shape: tuple[int, ...]) -> Tensor:
        """Convert a part of a state to a new tensor of `shape`."""
        values = np.asarray(values, dtype=np.float32)
        if values.shape != shape:
            raise ValueError(f"state must have shape {shape} for {shape[0]} environments, got {values.shape}")
        return torch.tensor(values, dtype=self._precision(), device=self.device)

    def _features(self, obs: Observations) -> Features:
        """Return the features in the precision of the weights; Stable-Baselines3 knows float32 alone."""
        features, kind = self.extract_features(self._counted_from_0(obs)), self._precision()
        if not isinstance(features, tuple):
            features = features.to(kind)
            return features, features
        return features[0].to(kind), features[1].to(kind)

    def _counted_from_0(self, obs: Observations) -> Observations:
        """Shift choices that begin elsewhere, as Stable-Baselines3 makes them one-hot from 0."""
        if not self._starts:
            return obs
        if isinstance(obs, dict):
            return {k: x - self._starts[k].to(x.device) if k in self._starts else x for k, x in obs.items()}
        return obs - self._starts[""].to(obs.device)

    def _scan_segments(self, rollout: Segments) -> Outputs:
        features = self._segment_features(rollout)
        previous = self._no_previous(rollout.previous, rollout.reset)
        return self._scan(features, previous, rollout.state, rollout.reset)

    def _segment_features(self, rollout: Segments) -> Features:
        """Return the features (B, T, F) of the actor and the critic."""
        shape = rollout.reset.shape
        actor, critic = self._features(each(rollout.observations, lambda x: x.flatten(0, 1)))
        shared = actor is critic
        actor = actor.unflatten(0, shape)
        return actor, actor if shared else critic.unflatten(0, shape)

    def _no_previous(self, previous: Tensor | None, reset: Tensor) -> Tensor:
        """Zero the previous-step input at the first step of an episode."""
        if previous is None or not self.previous_size:
            return torch.zeros(*reset.shape, self.previous_size, device=reset.device)
        return previous.masked_fill(reset.unsqueeze(-1), 0.0)
