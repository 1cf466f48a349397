"""Behaviour cloning of all or the best episodes, with a recurrent network or an MLP.

Shapes: B batch, T time, O flat observation width, A flat action width, D width, S state size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minrl.agent import Agent, Batch, Loss, Moment, Sampler
from minrl.cells import Cell
from minrl.data.batches import Packed, Windows
from minrl.data.episode import Episodes
from minrl.data.task import Task
from minrl.models.backbone_config import BackboneConfig
from minrl.models.compiled_act import Inputs, fused_step, overrides
from minrl.models.context_window import Refeed, carried_state_caution, refeeds
from minrl.models.embedding import embedded
from minrl.models.encoders import ActionUnits, Memoryless, Normalizer
from minrl.models.heads import ContinuousLoss, head_for
from minrl.system.config import check_at_least, check_at_most, setting


@dataclass(frozen=True)
class CloneConfig(BackboneConfig):
    """Settings of a behaviour-cloning agent."""

    recurrent: bool = setting(True, "a recurrent backbone; off: an MLP of one observation")
    frames: int = setting(1, "observations that an agent without a recurrent backbone sees, the last ones")
    top: float = setting(1.0, "share of the steps to train on, from the best episodes (0.1: 10 %% BC)")
    dropout: float = setting(0.1, "dropout on embeddings and residual branches")
    context: int | None = setting(None, "train on windows of this many steps instead of whole trajectories")
    # True or False after `__post_init__` wherever there is a choice; see `refeeds`.
    refeed: bool | None = setting(
        None, "act by rescanning the last `context` steps (default: wherever there is context)"
    )
    previous_action: bool = setting(False, "the previous action as an input")
    action_loss: ContinuousLoss = setting(
        "mse", "loss of continuous actions, in units of their std; discrete actions have cross-entropy"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "dropout")
        check_at_most(self, 10**6, "context")
        check_at_least(self, 1, "frames")
        check_at_most(self, 1000, "frames")
        if self.frames > 1 and self.recurrent:
            raise ValueError("frames are for an agent without a recurrent backbone: recurrent = false")
        if self.frames > 1 and self.context is not None:
            raise ValueError("frames are stacked along whole trajectories: leave context out")
        if not 0 < self.top <= 1:
            raise ValueError(f"top must lie in (0, 1], got {self.top}")
        if self.context is not None and self.context < 1:
            raise ValueError(f"context must be at least 1 step, got {self.context}")
        object.__setattr__(self, "refeed", refeeds(self.context, self.refeed, has_state=self.recurrent))


class CloneAgent(Agent):
    """Behaviour-cloning agent with the settings `config`, for the data set and environment of `task`."""

    name = "clone"
    config_class = CloneConfig
    config: CloneConfig

    def __init__(self, config: CloneConfig, task: Task) -> None:
        super().__init__(config, task)
        width, action = config.width, task.action_size
        self.action_size = action
        self.normalizer = Normalizer(task.observation_size)
        self.embed_observation = nn.Linear(task.observation_size, width)
        self.embed_action = nn.Linear(action, width) if config.previous_action else None
        self.dropout = nn.Dropout(config.dropout)
        self.backbone = _backbone(config)
        self.head = head_for(task, width, config.action_loss)
        self.loss_unit = self.head.loss_unit
        self.action_units = ActionUnits(task)
        # In a list, so that the backbone's weights are registered once.
        self._acting: list[Cell] = [self.backbone]
        if config.refeed and config.context is not None:
            self._acting = [Refeed(self.backbone, config.context)]
        self.memory_size = self.backbone.state_size
        self.state_size = action + self.acting.state_size

    @property
    def acting(self) -> Cell:
        """Return the model that acts: the backbone, or the backbone that rescans a window."""
        return self._acting[0]

    @classmethod
    def saved_config(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings as `Actor.saved_config` does: before `refeed`, clones acted from the carried state."""
        return ({} if values.get("context") is None else {"refeed": False}) | dict(values)

    def cautions(self) -> list[str]:
        """Return cautions as `Agent.cautions` does."""
        return carried_state_caution(self.config.context, self.config.refeed, has_state=self.config.recurrent)

    def fit_normalization(self, episodes: Episodes) -> None:
        """Fit the normalisation as `Agent.fit_normalization` does."""
        self.normalizer.fit(episodes)

    def sampler(self, episodes: Episodes, *, batch_size: int, length: int, seed: int) -> Sampler:
        """Return a sampler as `Agent.sampler` does, from the best episodes that hold the share `top` of the steps."""
        chosen = best_episodes(episodes, self.config.top)
        if self.config.context is not None:
            return Windows(chosen, batch_size=batch_size, length=self.config.context, seed=seed)
        return Packed(chosen, batch_size=batch_size, length=length, seed=seed)

    def loss(self, batch: Batch, memory: Tensor | None = None) -> Loss:
        """Compute the loss as `Agent.loss` does."""
        parts = [(self.embed_observation, self.normalizer(batch.observations))]
        if self.embed_action is not None:
            parts.append((self.embed_action, self._previous(batch)))
        token = embedded(parts, self.dropout)
        features, memory = self.backbone.scan(token, memory, batch.reset)
        losses = self.head.loss(features, batch.actions, batch.action_masks) * batch.mask
        return Loss(total=losses.sum(), count=batch.mask.sum(), memory=memory.detach())

    def predict(self, batch: Batch) -> Tensor:
        """Predict as `Agent.predict` does."""
        token = self.embed(batch.observations, self._previous(batch))
        return self.head.act(self.acting.scan(token, None, batch.reset)[0], masks=batch.action_masks)

    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        """Return the initial state as `Agent.initial_state` does; a target return has no effect."""
        memory = self.acting.initial_state(batch_size)
        return torch.zeros(batch_size, self.state_size, dtype=memory.dtype, device=memory.device)

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        """Act as `Agent.act` does, on a CPU without gradients in one compiled call if the agent has one."""
        if fused := fused_step(self, self._inputs, moment, state, deterministic=deterministic):
            return fused
        state = torch.where(moment.episode_start.unsqueeze(1), 0.0, state)
        previous, memory = state.split([self.action_size, self.acting.state_size], dim=1)
        features, memory = self.acting.step(self.embed(moment.observation, previous), memory)
        action = self.head.act(features, deterministic=deterministic, masks=moment.action_masks)
        return action, torch.cat([self.action_units(action).to(state.dtype), memory], dim=1)

    def _inputs(self) -> Inputs | None:
        """Return the parts of the compiled step; None if it would compute other equations."""
        if self.acting is not self.backbone or overrides(self, CloneAgent, "embed", "acting"):
            return None
        return Inputs(
            normalizer=self.normalizer,
            embed_observation=self.embed_observation,
            backbone=self.backbone,
            head=self.head,
            action_units=self.action_units,
            embed_action=self.embed_action,
            attributes=("task", "_acting"),
        )

    def embed(self, observation: Tensor, previous: Tensor) -> Tensor:
        """Return the backbone's input, the previous action in `action_units`: (..., O), (..., A) -> (..., D)."""
        token: Tensor = self.embed_observation(self.normalizer(observation))
        return token if self.embed_action is None else token + self.embed_action(previous)

    def _previous(self, batch: Batch) -> Tensor:
        return self.action_units.previous(batch.previous_actions, batch.time_steps == 0)


def best_episodes(episodes: Episodes, share: float) -> Episodes:
    """Return the episodes of highest return that together have `share` of the steps, at least one.

    Counted in steps as in Decision Transformer's %BC (kzl/decision-transformer, gym/experiment.py, `pct_traj`).
    """
    order = np.argsort(-episodes.returns, kind="stable")
    held = np.cumsum(episodes.lengths[order]) <= max(1, share * episodes.num_steps)
    count = max(1, int(held.sum()))
    return episodes if count == episodes.num_episodes else episodes.select(np.sort(order[:count]))


def _backbone(config: CloneConfig) -> Cell:
    if not config.recurrent:
        return Memoryless(config.width, config.depth, mlp=config.mlp, dropout=config.dropout, frames=config.frames)
    return config.backbone(dropout=config.dropout)
