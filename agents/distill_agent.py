"""Distillation: a recurrent student acts and learns the actions of a teacher, which may see more than the student.

Settings of a student; `policy_agent.py` is its acting, `distill.py` its training.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from minrl.data.spaces import AnySpace
from minrl.data.task import Task
from minrl.online.distill.teacher import fingerprint
from minrl.online.settings import DistillRunConfig
from minrl.system.config import setting
from minrl.system.names import nearest

from .distill import Distillation, open_teacher
from .ppo import RecurrentPPO
from .ppo_agent import PPOAgent, PPOConfig, PPOOptions


@dataclass(frozen=True)
class DistillOptions(PPOOptions):
    """Settings of a student that the user chooses."""

    teacher: str = setting("", "a run's folder, a checkpoint, or a .zip of Stable-Baselines3 or sb3-contrib")
    teacher_keys: list[str] = setting([], "keys of the observation that the teacher sees (unset: all)")
    student_keys: list[str] = setting(
        [], "keys that the student sees (unset: all but the teacher's, or all without teacher_keys)"
    )
    vecnormalize: str | None = setting(None, "VecNormalize.save's file for a teacher's .zip (unset: the one beside it)")


@dataclass(frozen=True)
class DistillConfig(DistillOptions, PPOConfig):
    """Settings of a student, with the teacher's fingerprint."""

    fingerprint: str = ""  # SHA-256 of the teacher's weights, so that a run goes on with the same teacher


class DistillAgent(PPOAgent):
    """Student with the settings `config` for the environment of `task`; it acts as a `PPOAgent` does."""

    name = "distill"
    options_class = DistillOptions
    config_class = DistillConfig
    settings_class = DistillRunConfig
    algorithm = Distillation
    requires = " --teacher ppo.zip"
    config: DistillConfig

    @classmethod
    def new_config(cls, options: PPOOptions) -> DistillConfig:
        """Extend `options` as `OnlineAgent.new_config` does; paths become absolute."""
        own = dict(vars(options))
        for name in ("teacher", "vecnormalize", "pretrained"):
            if own[name] and own[name] != "none":
                own[name] = str(Path(own[name]).expanduser().absolute())
        return DistillConfig(**own)

    @classmethod
    def learner(
        cls, config: PPOConfig, settings: Any, task: Task, environments: VecEnv, device: torch.device, **others: Any
    ) -> tuple[Any, RecurrentPPO]:
        """Build a student and its distillation as `OnlineAgent.learner` does.

        Raises:
            ValueError: if there is no teacher, it does not fit the environment, or it is not the one of the run's
                beginning.
        """
        assert isinstance(config, DistillConfig)
        if not config.teacher:
            raise ValueError("no teacher: --teacher takes a run's folder, a checkpoint or a .zip of Stable-Baselines3")
        teacher = open_teacher(
            config.teacher, task.observation_space, task.action_space, keys=config.teacher_keys,
            vecnormalize=config.vecnormalize,
        )  # fmt: skip
        found = fingerprint(teacher)
        if config.fingerprint not in ("", found):
            raise ValueError(f"teacher {config.teacher} has other weights than at the beginning of the run")
        hidden = hidden_keys(task.observation_space, config)
        return super().learner(
            replace(config, fingerprint=found, critic_keys=hidden), settings, task, environments, device,
            teacher=teacher, teacher_keys=config.teacher_keys, **others,
        )  # fmt: skip


def hidden_keys(space: AnySpace, config: DistillOptions) -> list[str]:
    """Return the keys of an observation that the student does not see.

    Raises:
        ValueError: for a key that the observation does not have.
    """
    hidden = list(config.critic_keys)
    if config.student_keys:
        if not isinstance(space, spaces.Dict):
            raise ValueError("student_keys name parts of a Dict observation, which this environment does not have")
        for key in config.student_keys:
            if key not in space.spaces:
                raise ValueError(f'student_keys: the observation has no key "{key}"; {nearest(key, space.spaces)}')
        hidden += [key for key in space.spaces if key not in config.student_keys]
    else:
        hidden += config.teacher_keys
    return list(dict.fromkeys(hidden))
