"""Recurrent SAC: learns by acting, from a replay of whole rows by one scan; continuous and discrete actions.

Settings and acting of a policy; `sac.py` is its training.

Shapes: B environments, O flat observation width, A flat action width, S state size of the policy, P width of the
previous action and reward.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from minrl.agent import Moment, OnlineAgent
from minrl.data.task import Task
from minrl.models.backbone_config import BackboneConfig
from minrl.online.flat_spaces import CLIP, PolicySpaces, Standardizer
from minrl.online.inputs.images import CNN
from minrl.online.offpolicy.policy import POLICIES, SACPolicy
from minrl.online.settings import ReplayConfig, ReplaySettings
from minrl.system.config import check_at_least
from minrl.system.messages import one_line

from .sac import RecurrentSAC


@dataclass(frozen=True)
class SACOptions(BackboneConfig):
    """Settings of a policy."""

    width: int = field(default=64, metadata={"help": "width of the backbones"})
    depth: int = field(default=2, metadata={"help": "blocks of each backbone"})
    mlp: float = field(default=0.0, metadata={"help": "hidden width of each block's MLP over the width, 0 for none"})
    cnn: CNN = field(
        default="auto",
        metadata={"help": "network for images: nature (36 x 36 pixels or more), small, auto: by the size"},
    )
    critic_cell: str | None = field(default=None, metadata={"help": "cell of the critics (unset: the actor's)"})
    share_trunk: bool = field(
        default=False, metadata={"help": "one backbone for actor and critics, which learns from the critics' loss"}
    )
    n_critics: int = field(default=2, metadata={"help": "critics, of which the lowest value counts"})
    previous_action: bool = field(default=True, metadata={"help": "the previous action as an input"})
    previous_reward: bool = field(default=False, metadata={"help": "the previous reward as an input"})
    net_arch: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "layers of actor and critics after the backbone: pi=[64] qf=[64]"}
    )
    normalize_observations: bool = field(
        default=False, metadata={"help": "standardise observations by running mean and std"}
    )
    normalize_rewards: bool = field(
        default=False, metadata={"help": "divide rewards by the running std of the discounted return"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "n_critics")
        for name, layers in self.net_arch.items():
            is_list = isinstance(layers, list) and all(isinstance(n, int) and n > 0 for n in layers)
            if name not in ("pi", "qf") or not is_list:
                raise ValueError(f"net_arch reads pi=[64] qf=[64], got {name}={layers}")

    def policy_kwargs(self) -> dict[str, Any]:
        """Return the keywords for the policies of `minrl.online.offpolicy.policy`."""
        names = (
            "cell", "width", "depth", "conv", "mlp", "critic_cell", "share_trunk", "n_critics", "previous_action",
            "previous_reward",
        )  # fmt: skip
        options = {name: getattr(self, name) for name in names}
        layers = {"pi": [self.width], "qf": [self.width]} | self.net_arch
        options |= {"cell_options": self.cell_options or None, "net_arch": layers}
        return options if self.cnn == "auto" else {**options, "cnn": self.cnn}


class SACAgent(OnlineAgent):
    """Agent of this module, with the settings `config` for the environment of `task`.

    The state (B, S + P) is the policy's hidden state and, where the policy reads them, the last action and reward.

    Args:
        config, task: as for every agent.
        policy: of a running training; a new one by default.
    """

    name = "sac"
    options_class = config_class = SACOptions
    settings_class = ReplayConfig
    config: SACOptions
    reward_std: Tensor

    def __init__(self, config: SACOptions, task: Task, policy: SACPolicy | None = None) -> None:
        # Without normalisation Stable-Baselines3 casts to float32 while training too.
        wide = task.wide_observations and config.normalize_observations
        super().__init__(config, replace(task, wide_observations=wide))
        self.spaces = PolicySpaces(task.observation_space, task.action_space)
        self.policy = self._new_policy() if policy is None else policy
        self.state_size = self.policy.state_size + self.policy.previous_size
        self.standardizer = Standardizer(self.spaces) if config.normalize_observations else None
        if config.normalize_rewards:
            self.register_buffer("reward_std", torch.ones((), dtype=torch.float64))

    @classmethod
    def new_config(cls, options: SACOptions) -> SACOptions:
        """Return `options`, which are all settings of this agent."""
        return options

    @classmethod
    def learner(
        cls, config: SACOptions, settings: ReplayConfig, task: Task, environments: VecEnv, device: torch.device
    ) -> tuple["SACAgent", RecurrentSAC]:
        """Build an agent and its SAC as `OnlineAgent.learner` does."""
        model = _model(config, settings, task, environments, device)
        return cls(config, task, model.policy), model

    def copy_normalization(self, environments: VecNormalize) -> None:
        """Copy statistics as `OnlineAgent.copy_normalization` does."""
        if self.standardizer is not None:
            self.standardizer.copy_statistics(environments)
        if self.config.normalize_rewards:
            self.reward_std.fill_(float((environments.ret_rms.var + environments.epsilon) ** 0.5))

    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        """Return the initial state as `Actor.initial_state` does; a target return has no effect."""
        memory = self.policy.initial_state(batch_size)
        return memory.new_zeros(batch_size, self.state_size)

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        """Act as `Actor.act` does."""
        policy = self.policy
        memory, previous = state.split([policy.state_size, policy.previous_size], dim=1)
        if policy.previous_reward:
            previous = torch.cat([previous[:, :-1], self._reward(moment.reward).unsqueeze(1)], dim=1)
        flat = moment.observation if self.standardizer is None else self.standardizer(moment.observation)
        distribution, memory = policy.get_distribution(
            self.spaces.observations(flat), memory, moment.episode_start, previous
        )
        action = distribution.get_actions(deterministic=deterministic)
        if policy.previous_size:
            memory = torch.cat([memory, policy.encode_previous(action, None)], dim=1)
        taken = policy.environment_actions(action)
        return self.spaces.flat_actions(taken).to(state.dtype), memory

    def _reward(self, reward: Tensor) -> Tensor:
        if not self.config.normalize_rewards:
            return reward
        return (reward.double() / self.reward_std).clamp(-CLIP, CLIP).to(reward.dtype)

    def _new_policy(self) -> SACPolicy:
        kind = POLICIES[self.spaces.policy]
        return kind(
            self.spaces.observation_space, self.spaces.action_space, lambda _: 0.0, **self.config.policy_kwargs()
        )


def _model(
    config: SACOptions, settings: ReplayConfig, task: Task, environments: VecEnv, device: torch.device
) -> RecurrentSAC:
    options: dict[str, Any] = {item.name: getattr(settings, item.name) for item in fields(ReplaySettings)}
    rate, decay = settings.learning_rate, options.pop("decay")
    options["learning_rate"] = rate if decay == "constant" else lambda left: rate * left
    policy_spaces = PolicySpaces(task.observation_space, task.action_space)
    if config.cnn != "auto" and not policy_spaces.images:
        raise ValueError(f"cnn={config.cnn}: the observations of {settings.env} hold no image; leave it out")
    try:
        return RecurrentSAC(
            policy_spaces.policy, environments, policy_kwargs=config.policy_kwargs(), seed=settings.seed,
            device=device, **options,
        )  # fmt: skip
    # Stable-Baselines3 asserts; torch's modules raise KeyError for some names.
    except (AssertionError, TypeError, RuntimeError, ZeroDivisionError, KeyError) as error:
        raise ValueError(f"no sac agent can be made of these settings: {one_line(error)}") from error
