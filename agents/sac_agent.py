"""Recurrent SAC: learns by acting, from a replay of whole rows by one scan; continuous and discrete actions.

Settings of a policy; `policy_agent.py` is its acting, `sac.py` its training.
"""

from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv

from minrl.data.task import Task
from minrl.models.backbone_config import BackboneConfig
from minrl.online.inputs.images import CNN
from minrl.online.offpolicy.policy import POLICIES, SACPolicy
from minrl.online.settings import ReplayConfig, ReplaySettings
from minrl.system.config import check_at_least, setting

from .policy_agent import PolicyAgent, build_algorithm
from .sac import RecurrentSAC


@dataclass(frozen=True)
class SACOptions(BackboneConfig):
    """Settings of a policy."""

    width: int = setting(64, "width of the backbones")
    depth: int = setting(2, "blocks of each backbone")
    mlp: float = setting(0.0, "hidden width of each block's MLP over the width, 0 for none")
    cnn: CNN = setting("auto", "network for images: nature (36 x 36 pixels or more), small, auto: by the size")
    critic_cell: str | None = setting(None, "cell of the critics (unset: the actor's)")
    share_trunk: bool = setting(False, "one backbone for actor and critics, which learns from the critics' loss")
    n_critics: int = setting(2, "critics, of which the lowest value counts")
    previous_action: bool = setting(True, "the previous action as an input")
    previous_reward: bool = setting(False, "the previous reward as an input")
    net_arch: dict[str, Any] = setting({}, "layers of actor and critics after the backbone: pi=[64] qf=[64]")
    normalize_observations: bool = setting(False, "standardise observations by running mean and std")
    normalize_rewards: bool = setting(False, "divide rewards by the running std of the discounted return")

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


class SACAgent(PolicyAgent):
    """Agent of this module, with the settings `config` for the environment of `task`."""

    name = "sac"
    options_class = config_class = SACOptions
    settings_class = ReplayConfig
    config: SACOptions

    @classmethod
    def learner(
        cls, config: SACOptions, settings: ReplayConfig, task: Task, environments: VecEnv, device: torch.device
    ) -> tuple["SACAgent", RecurrentSAC]:
        """Build an agent and its SAC as `OnlineAgent.learner` does."""
        model: RecurrentSAC = build_algorithm(
            RecurrentSAC, cls.name, config, settings, task, environments, device,
            keywords_of=ReplaySettings, policy_kwargs=lambda _: config.policy_kwargs(),
        )  # fmt: skip
        return cls(config, task, model.policy), model

    def _new_policy(self) -> SACPolicy:
        kind = POLICIES[self.spaces.policy]
        return kind(
            self.spaces.observation_space, self.spaces.action_space, lambda _: 0.0, **self.config.policy_kwargs()
        )
