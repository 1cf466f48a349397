"""Interfaces of agents: acting from a carried state, offline training on batches, online training.

Shapes: B batch, T time, O flat observation width, A flat action width, S state size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy.typing as npt
import torch
from torch import Tensor, nn

from minrl.data.episode import Episodes
from minrl.data.task import Task

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

OnlineSelf = TypeVar("OnlineSelf", bound="OnlineAgent")


@dataclass(frozen=True)
class Batch:
    """Recorded steps: whole trajectories end to end with reset flags, or padded windows with a mask."""

    observations: Tensor  # (B, T, O)
    actions: Tensor  # (B, T, A)
    previous_actions: Tensor  # (B, T, A), zero at the start of an episode
    returns_to_go: Tensor  # (B, T) undiscounted, the reward of the step itself included
    time_steps: Tensor  # (B, T) int64, steps since the start of the episode
    reset: Tensor  # (B, T) bool, True where a step opens an episode or a window
    mask: Tensor  # (B, T) bool, False at padding
    # (B, T) the return-to-go at the first step of each step's episode, which a window may begin after; None in batches
    # made by hand, where `reset` opens episodes.
    first_returns: Tensor | None = None
    rewards: Tensor | None = None  # (B, T), None as well
    terminal: Tensor | None = None  # (B, T) bool, True at the last step of an episode that terminated; None as well
    action_masks: Tensor | None = None  # (B, T, M) bool, see `minrl.data.masks`; False at padding

    @classmethod
    def from_numpy(cls, arrays: Mapping[str, npt.NDArray[Any]], device: torch.device | str = "cpu") -> "Batch":
        """Convert the arrays of a sampler (see `minrl.data.batches`) to tensors on `device`."""
        return cls(**{f.name: torch.from_numpy(arrays[f.name]).to(device) for f in fields(cls) if f.name in arrays})

    def to(self, dtype: torch.dtype) -> "Batch":
        """Convert floating-point tensors to another precision."""
        return Batch(**{k: v.to(dtype) if v.is_floating_point() else v for k, v in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the batch by their names, without those that it does not have."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Moment:
    """Inputs of one acting step for B environments."""

    observation: Tensor  # (B, O) flattened; float64 where float32 would lose what it holds (`Task.wide_observations`)
    reward: Tensor  # (B,) of the last action; ignored where an episode starts
    episode_start: Tensor  # (B,) bool, True where the observation opens an episode
    action_masks: Tensor | None = None  # (B, M) bool, see `minrl.data.masks`; None where all actions are allowed


@dataclass(frozen=True)
class Loss:
    """Loss as a sum and a count, so that the mean over several processes is exact."""

    total: Tensor  # () sum over steps
    count: Tensor  # () number of steps
    memory: Tensor  # (B, memory_size) hidden state of the backbone after the last step, detached


class Sampler(Protocol):
    """Endless source of batches whose position can be saved and restored exactly."""

    continues: bool  # True if rows of a batch may continue the trajectories of the last one

    def __next__(self) -> dict[str, npt.NDArray[Any]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Actor(nn.Module, ABC):
    """A policy that acts from a carried state, however it was trained.

    The acting state of B environments is one tensor (B, S): return-to-go, time steps and the backbone's hidden state
    side by side.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Any]]
    config: Any
    task: Task
    target_return: float | None = None  # default; None if the agent is not conditioned on returns
    state_size: int  # S

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__()
        self.config, self.task = config, task

    @classmethod
    def saved_config(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a checkpoint; settings newer than its version get the values by which it acted."""
        return dict(values)

    @abstractmethod
    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        """Return the state (B, S) before the first step; the default target return is the agent's own."""

    @abstractmethod
    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        """Act in B environments: return flattened actions (B, A) and the next state (B, S)."""


@runtime_checkable
class StochasticActor(Protocol):
    """Actor with a distribution of actions, as a policy that it teaches may be compared with it."""

    def act_with_parameters(self, moment: Moment, state: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the likeliest actions (B, A), parameters of their distribution (B, K), and the next state (B, S).

        Parameters are logits of choices and flags side by side, or means and log standard deviations of real actions;
        None for a distribution of another kind.
        """


@runtime_checkable
class TargetReturnAgent(Protocol):
    """Agent whose target return can be set after training."""

    max_target_return: float  # higher targets count as this one

    def set_target_return(self, target_return: float) -> None:
        """Set the default target return."""


class Agent(Actor):
    """An actor that trains on the whole trajectories of a data set."""

    memory_size: int  # of the backbone
    loss_unit: str = ""  # of the training loss, for reports

    def cautions(self) -> list[str]:
        """Return a warning for each setting that is rarely intended; printed once, before training."""
        return []

    @abstractmethod
    def fit_normalization(self, episodes: Episodes) -> None:
        """Compute mean and spread of observations from a data set."""

    @abstractmethod
    def sampler(self, episodes: Episodes, *, batch_size: int, length: int, seed: int) -> Sampler:
        """Return a sampler of batches: `batch_size` rows of `length` steps, or windows of the agent's own length."""

    @abstractmethod
    def loss(self, batch: Batch, memory: Tensor | None = None) -> Loss:
        """Compute the training loss from the initial hidden state `memory` (B, memory_size); None is zero."""

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Return the actions (B, T, A) along recorded trajectories, from the zero hidden state."""


class OnlineAgent(Actor):
    """An actor that learns in its environment, with an algorithm of Stable-Baselines3."""

    # Settings of the user: table [name] of a config. `config_class` holds them and what else a checkpoint needs.
    options_class: ClassVar[type[Any]]
    requires: ClassVar[str] = ""  # flags that a new run cannot do without, for usages
    # Settings of the run and its algorithm: table [train] of a config. None: those of PPO.
    settings_class: ClassVar[type[Any] | None] = None

    @classmethod
    def new_config(cls, options: Any) -> Any:
        """Return the config of a new agent with these options, by default the options themselves."""
        return options

    @classmethod
    @abstractmethod
    def learner(
        cls: type[OnlineSelf], config: Any, settings: Any, task: Task, environments: "VecEnv", device: torch.device
    ) -> tuple[OnlineSelf, "BaseAlgorithm"]:
        """Return an agent and the algorithm that trains its policy.

        Args:
            config: of the agent.
            settings: of the run, of the agent's `settings_class`; by default a `minrl.online.settings.OnlineConfig`.
            task: what the agent is trained for.
            environments: in which it learns.
            device: of the policy.

        Raises:
            ValueError: for settings that do not fit together.
        """

    def copy_normalization(self, environments: "VecNormalize") -> None:
        """Copy the running statistics by which `environments` normalises observations and rewards."""


def parameter_count(module: nn.Module) -> int:
    """Count the trainable parameters of `module`."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
