"""Agent that acts by a recurrent policy of Stable-Baselines3, and the algorithm that trains it.

Shapes: B environments, S state size of the policy, P width of the previous action and reward.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from minrl.agent import Moment, OnlineAgent
from minrl.data.task import Task
from minrl.online.flat_spaces import CLIP, PolicySpaces, Standardizer
from minrl.online.likelihood import parameters
from minrl.system.messages import one_line


class PolicyAgent(OnlineAgent):
    """Agent whose state (B, S + P) is the policy's hidden state and, where it reads them, the last action and reward.

    Args:
        config, task: as for every agent.
        policy: of a running training; a new one by default.
    """

    config: Any
    policy: Any
    reward_std: Tensor

    def __init__(self, config: Any, task: Task, policy: Any = None) -> None:
        # Without normalisation Stable-Baselines3 casts to float32 while training too.
        wide = task.wide_observations and config.normalize_observations
        super().__init__(config, replace(task, wide_observations=wide))
        self.spaces = PolicySpaces(task.acting_space, task.action_space)
        self.policy = self._new_policy() if policy is None else policy
        self.state_size = self.policy.acting_size + self.policy.previous_size
        self.standardizer = Standardizer(self.spaces) if config.normalize_observations else None
        if config.normalize_rewards:
            self.register_buffer("reward_std", torch.ones((), dtype=torch.float64))

    def copy_normalization(self, environments: VecNormalize) -> None:
        """Copy statistics as `OnlineAgent.copy_normalization` does."""
        if self.standardizer is not None:
            self.standardizer.copy_statistics(environments)
        if self.config.normalize_rewards:
            self.reward_std.fill_(float((environments.ret_rms.var + environments.epsilon) ** 0.5))

    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        """Return the initial state as `Actor.initial_state` does; a target return has no effect."""
        memory: Tensor = self.policy.initial_state(batch_size)
        return memory.new_zeros(batch_size, self.state_size)

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        """Act as `Actor.act` does."""
        distribution, memory = self._distribution(moment, state, deterministic)
        return self._taken(distribution, memory, state.dtype, deterministic)

    def act_with_parameters(self, moment: Moment, state: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Act as `StochasticActor.act_with_parameters` does."""
        distribution, memory = self._distribution(moment, state, True)
        found = None if self.policy.squash_output else parameters(distribution)
        action, memory = self._taken(distribution, memory, state.dtype, True)
        return action, found, memory

    def _distribution(self, moment: Moment, state: Tensor, deterministic: bool) -> tuple[Any, Tensor]:
        """Return the distribution of actions and the policy's next state."""
        policy = self.policy
        memory, previous = state.split([policy.acting_size, policy.previous_size], dim=1)
        if policy.previous_reward:
            previous = torch.cat([previous[:, :-1], self._reward(moment.reward).unsqueeze(1)], dim=1)
        if policy.use_sde and not deterministic and moment.episode_start.any():
            policy.reset_noise(len(state))
        flat = moment.observation if self.standardizer is None else self.standardizer(moment.observation)
        found: tuple[Any, Tensor] = policy.get_distribution(
            self.spaces.observations(flat), memory, moment.episode_start, previous, self._masks(moment)
        )
        return found

    def _taken(
        self, distribution: Any, memory: Tensor, dtype: torch.dtype, deterministic: bool
    ) -> tuple[Tensor, Tensor]:
        """Return actions of a distribution and the agent's next state."""
        policy, action = self.policy, distribution.get_actions(deterministic=deterministic)
        if policy.previous_size:
            memory = torch.cat([memory, policy.encode_previous(action, None)], dim=1)
        taken = policy.environment_actions(action)
        return self.spaces.flat_actions(taken).to(dtype), memory

    def _masks(self, moment: Moment) -> Tensor | None:
        """Return the masks as additions to the logits of choices, (B, K); None for an agent without masks."""
        return None

    @abstractmethod
    def _new_policy(self) -> Any:
        """Build the policy of the task's spaces, with weights drawn anew."""

    def _reward(self, reward: Tensor) -> Tensor:
        if not self.config.normalize_rewards:
            return reward
        return (reward.double() / self.reward_std).clamp(-CLIP, CLIP).to(reward.dtype)


def build_algorithm(
    algorithm: Any,
    name: str,
    config: Any,
    settings: Any,
    task: Task,
    environments: VecEnv,
    device: torch.device,
    *,
    keywords_of: type[Any],
    policy_kwargs: Callable[[PolicySpaces], dict[str, Any]],
    **others: Any,
) -> Any:
    """Build the algorithm that trains a policy.

    Args:
        algorithm: a class of Stable-Baselines3's interface.
        name: of the agent, for errors.
        config, settings, task, environments, device: as for `OnlineAgent.learner`.
        keywords_of: dataclass whose fields are the settings that the algorithm takes; `decay` shapes its learning rate.
        policy_kwargs: function of the policy's spaces that returns its keywords.
        others: keywords of the algorithm that are no such settings, or replace them.

    Raises:
        ValueError: for settings that do not fit together.
    """
    options: dict[str, Any] = {item.name: getattr(settings, item.name) for item in fields(keywords_of)}
    rate, decay = settings.learning_rate, options.pop("decay")
    options["learning_rate"] = rate if decay == "constant" else lambda left: rate * left
    policy_spaces = PolicySpaces(task.observation_space, task.action_space)
    if config.cnn != "auto" and not policy_spaces.images:
        raise ValueError(f"cnn={config.cnn}: the observations of {settings.env} hold no image; leave it out")
    try:
        return algorithm(
            policy_spaces.policy, environments, policy_kwargs=policy_kwargs(policy_spaces), seed=settings.seed,
            device=device, **options | others,
        )  # fmt: skip
    # Stable-Baselines3 asserts; torch's modules raise KeyError for some names.
    except (AssertionError, TypeError, RuntimeError, ZeroDivisionError, KeyError) as error:
        raise ValueError(f"no {name} agent can be made of these settings: {one_line(error)}") from error
