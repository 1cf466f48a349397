"""Recurrent PPO: learns by acting, from whole rollout segments by one scan; continuous and discrete actions.

Settings of a policy; `policy_agent.py` is its acting, `ppo.py` its training.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from minrl.agent import Moment
from minrl.data.masks.action_masks import additive
from minrl.data.task import Task
from minrl.models.backbone_config import BackboneConfig
from minrl.online.flat_spaces import PolicySpaces
from minrl.online.inputs.critic import split_space
from minrl.online.inputs.images import CNN
from minrl.online.policy import RecurrentPolicy
from minrl.online.settings import OnlineConfig
from minrl.runs.checkpoint import Checkpoint
from minrl.system.config import check_at_least, setting
from minrl.system.messages import one_line

from .policy_agent import PolicyAgent, build_algorithm
from .ppo import RecurrentPPO

_WIDEST = 1 << 16  # layer of actor or critic


@dataclass(frozen=True)
class PPOOptions(BackboneConfig):
    """Settings of a policy that the user chooses."""

    depth: int = setting(2, "blocks of the backbone")
    mlp: float = setting(0.0, "hidden width of each block's MLP over the width, 0 for none")
    cnn: CNN = setting("auto", "network for images: nature (36 x 36 pixels or more), small, auto: by the size")
    separate_critic: bool = setting(False, "a backbone of its own for the critic")
    critic_keys: list[str] = setting([], "keys of the observation that the critic alone sees")
    critic: dict[str, Any] = setting({}, "settings of the critic's own backbone: cell=none width=64")
    previous_action: bool = setting(False, "the previous action as an input")
    previous_reward: bool = setting(False, "the previous reward as an input")
    use_masking: bool = setting(True, "action masks, of environments with action_masks()")
    net_arch: dict[str, Any] = setting({}, "layers of actor and critic after the backbone: pi=[64] vf=[64]")
    normalize_observations: bool = setting(False, "standardise observations by running mean and std")
    normalize_rewards: bool = setting(False, "divide rewards by the running std of the discounted return")
    use_sde: bool = setting(False, "state-dependent exploration (gSDE), continuous actions")
    log_std_init: float | None = setting(None, "log of the first standard deviation of continuous actions (unset: 0)")
    pretrained: str | None = setting(None, "run of an offline agent to start from; its backbone is used")
    pretrained_kl: float = setting(
        0.0, "weight of the KL divergence from the pretrained policy, decays to zero over the run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "pretrained_kl")
        for name, layers in self.net_arch.items():
            is_list = isinstance(layers, list) and all(isinstance(n, int) and 0 < n <= _WIDEST for n in layers)
            if name not in ("pi", "vf") or not is_list:
                raise ValueError(f"net_arch reads pi=[64] vf=[64], got {name}={one_line(layers, 40)}")
        if self.pretrained_kl and self.pretrained is None:
            raise ValueError("pretrained_kl needs pretrained, the run to start from")
        if self.pretrained is not None and self.normalize_observations:
            raise ValueError("a pretrained agent normalises observations itself: leave out normalize_observations")


@dataclass(frozen=True)
class PPOConfig(PPOOptions):
    """Settings of a policy, with the pretrained agent that it started from."""

    # The pretrained agent without its weights, so that a checkpoint does not depend on that run's folder.
    origin: dict[str, Any] = field(default_factory=dict)

    def policy_kwargs(self) -> dict[str, Any]:
        """Return the keywords for the policies of `minrl.online.backbone_policy`."""
        names = "cell", "width", "depth", "conv", "mlp", "separate_critic", "previous_action", "previous_reward"
        options = {name: getattr(self, name) for name in names}
        options |= {"cell_options": self.cell_options or None, "net_arch": self.net_arch or None}
        if self.cnn != "auto":
            options["cnn"] = self.cnn
        if self.critic:
            options["critic"] = self.critic
        if self.log_std_init is not None:
            options["log_std_init"] = self.log_std_init
        if self.pretrained is not None:
            start = Checkpoint(**self.origin) if self.origin else self.pretrained
            options |= {"pretrained": start, "pretrained_kl": self.pretrained_kl}
        return options


class PPOAgent(PolicyAgent):
    """Agent of this module, with the settings `config` for the environment of `task`."""

    name = "ppo"
    options_class = PPOOptions
    config_class = PPOConfig
    algorithm: ClassVar[type[RecurrentPPO]] = RecurrentPPO
    config: PPOConfig

    @classmethod
    def new_config(cls, options: PPOOptions) -> PPOConfig:
        """Extend `options` as `OnlineAgent.new_config` does; `pretrained` becomes an absolute path."""
        config = PPOConfig(**vars(options))
        if config.pretrained is None:
            return config
        return replace(config, pretrained=str(Path(config.pretrained).expanduser().absolute()))

    @classmethod
    def learner(
        cls,
        config: PPOConfig,
        settings: OnlineConfig,
        task: Task,
        environments: VecEnv,
        device: torch.device,
        **others: Any,
    ) -> tuple[Any, RecurrentPPO]:
        """Build an agent and its algorithm as `OnlineAgent.learner` does; `others` are keywords of the algorithm."""
        split_space(task.observation_space, config.critic_keys, None)  # keys that the observation does not have
        task = replace(task, masked=task.masked and config.use_masking, critic_keys=tuple(config.critic_keys))
        model: RecurrentPPO = build_algorithm(
            cls.algorithm, cls.name, config, settings, task, environments, device,
            keywords_of=settings.algorithm, policy_kwargs=lambda whole: config.policy_kwargs() | _keys(whole, task),
            use_sde=config.use_sde, batch_size=settings.batch_size or None, **others,
        )  # fmt: skip
        model.masking.default = task.masked
        if config.pretrained is not None and not config.origin:
            start: Any = model.policy.pretrained
            config = replace(config, origin=dict(vars(start)))
        return cls(config, task, model.policy), model

    def _masks(self, moment: Moment) -> Tensor | None:
        """Return the masks as additions to the logits of choices, (B, K)."""
        if moment.action_masks is None:
            return None
        return additive(self.spaces.action_space, moment.action_masks)

    def _new_policy(self) -> RecurrentPolicy:
        whole = PolicySpaces(self.task.observation_space, self.task.action_space)
        kind: Any = RecurrentPPO.policy_aliases[whole.policy]
        policy: RecurrentPolicy = kind(
            whole.observation_space,
            whole.action_space,
            lambda _: 0.0,
            use_sde=self.config.use_sde,
            **self.config.policy_kwargs(),
            **_keys(whole, self.task),
        )
        return policy


def _keys(policy_spaces: PolicySpaces, task: Task) -> dict[str, Any]:
    """Return the policy's keyword for the keys of the critic alone, whose parts may be nested."""
    if not task.critic_keys:
        return {}
    observed: Any = policy_spaces.observation_space
    starts = tuple(f"{key}/" for key in task.critic_keys)
    return {"critic_keys": [n for n in observed.spaces if n in task.critic_keys or n.startswith(starts)]}
