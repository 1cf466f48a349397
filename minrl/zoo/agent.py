"""Saved policy of Stable-Baselines3 or sb3-contrib as an actor.

Shapes: B environments, O flat observation width, A flat action width, S state size, L layers and H width of an LSTM.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minrl.agent import Actor, Moment
from minrl.data.masks.action_masks import checked_masks
from minrl.data.spaces import AnySpace
from minrl.data.task import Task
from minrl.zoo.actions import ActionHead, HeadSize
from minrl.zoo.batches import from_rows, to_rows
from minrl.zoo.network import Features, hidden_layers, lstm, lstm_step
from minrl.zoo.spaces import Part
from minrl.zoo.statistics import Standardizer
from minrl.zoo.weights import CnnSize, LinearSize, LstmSize

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ZipConfig:
    """Layers and settings of a saved policy, from which it is built without its weights."""

    algorithm: str  # "PPO", "RecurrentPPO", …
    parts: tuple[Part, ...]  # of the observation, in the order of the features
    cnns: dict[str, CnnSize]  # networks of images, by the names of their parts
    lstm: LstmSize | None
    hidden: tuple[LinearSize, ...]  # layers between features or LSTM and head
    activation: str  # after each of them, a key of `minrl.zoo.settings.ACTIVATIONS`
    head: HeadSize
    normalize_images: bool = True
    standardizes: bool = False  # by the statistics of a VecNormalize


class ZipAgent(Actor):
    """Policy of a file that `minrl.zoo.load_zip` opened.

    It acts as an agent of this package, in batches from a state (B, S), S = 2LH: h and c of each layer side by side.
    `predict` is Stable-Baselines3's.
    """

    name = "zip"
    config_class = ZipConfig
    config: ZipConfig

    def __init__(self, config: ZipConfig, task: Task) -> None:
        super().__init__(config, task)
        self.standardizer = Standardizer(task.observation_size) if config.standardizes else None
        self.features = Features(config.parts, config.cnns, config.normalize_images)
        self.lstm = None if config.lstm is None else lstm(config.lstm)
        self.hidden = hidden_layers(config.hidden, config.activation)
        self.head = ActionHead(config.head, task.action_space)
        self.state_size = 0 if config.lstm is None else 2 * config.lstm.layers * config.lstm.hidden

    @property
    def algorithm(self) -> str:
        """Name of the algorithm that trained it."""
        return self.config.algorithm

    @property
    def observation_space(self) -> AnySpace:
        """Space of the observations that `predict` takes."""
        return self.task.observation_space

    @property
    def action_space(self) -> AnySpace:
        """Space of the actions that `predict` returns."""
        return self.task.action_space

    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        """Return the initial state as `Actor.initial_state` does; a target return has no effect."""
        return self.head.linear.weight.new_zeros(batch_size, self.state_size)

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        """Act as `Actor.act` does."""
        latent, state = self._latent(moment, state, deterministic)
        return self.head(latent, deterministic=deterministic, masks=moment.action_masks), state

    def act_with_parameters(self, moment: Moment, state: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Act as `StochasticActor.act_with_parameters` does."""
        latent, state = self._latent(moment, state, True)
        action = self.head(latent, masks=moment.action_masks)
        return action, self.head.parameters_of(latent, moment.action_masks), state

    def _latent(self, moment: Moment, state: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """Return the inputs of the head (B, D) and the next state."""
        if self.config.head.sde and not deterministic and bool(moment.episode_start.any()):
            self.head.reset_noise(len(state))
        flat = moment.observation if self.standardizer is None else self.standardizer(moment.observation)
        x = self.features(flat.to(self.head.linear.weight.dtype))
        state = state.masked_fill(moment.episode_start.unsqueeze(1), 0.0)
        if self.lstm is not None:
            x, state = lstm_step(self.lstm, x, state)
        return self.hidden(x), state

    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: npt.ArrayLike | None = None,
        deterministic: bool = False,
        action_masks: npt.ArrayLike | None = None,
    ) -> tuple[Any, tuple[Array, ...] | None]:
        """Return actions and the next state, as `predict` of Stable-Baselines3 and sb3-contrib does.

        Args:
            observation: one, or a batch of B with a leading axis; images with their channels last or first. Raw ones
                where the policy was opened with the statistics of a VecNormalize, which then apply here.
            state: h and c of the LSTM, (L, B, H) each, as returned; None at first.
            episode_start: (B,) bool, True where the state is to be reset; None for nowhere.
            deterministic: the likeliest action instead of a sample.
            action_masks: of MaskablePPO, (B, M) flags of the choices that are allowed.

        Raises:
            ValueError: if the observation, the state or the masks do not fit.
        """
        rows, batched = to_rows(self.task, observation)
        count = len(rows)
        starts = np.zeros(count, np.bool_) if episode_start is None else np.asarray(episode_start, np.bool_)
        masks = None
        if action_masks is not None:
            masks = torch.from_numpy(checked_masks(self.task.action_space, action_masks, count, "action_masks"))
        with torch.inference_mode():
            moment = Moment(rows, torch.zeros(count), torch.from_numpy(starts.reshape(count)), masks)
            action, after = self.act(moment, self._packed(state, count), deterministic=deterministic)
        return from_rows(self.task, action, batched=batched), self._unpacked(after) if self.lstm is not None else state

    def _packed(self, state: tuple[Array, ...] | None, count: int) -> Tensor:
        """Convert h and c, (L, B, H) each, to (B, S)."""
        if state is None or self.config.lstm is None:
            return self.initial_state(count)
        shape = (self.config.lstm.layers, count, self.config.lstm.hidden)
        parts = [np.asarray(part, np.float32) for part in state]
        if [part.shape for part in parts] != [shape, shape]:
            raise ValueError(
                f"state must be h and c of shape {shape} each (layers, environments, width), got "
                f"{', '.join(str(part.shape) for part in parts)}"
            )
        return torch.from_numpy(np.stack(parts).transpose(2, 1, 0, 3).reshape(count, -1))

    def _unpacked(self, state: Tensor) -> tuple[Array, ...]:
        """Convert (B, S) to h and c, (L, B, H) each."""
        size = self.config.lstm
        assert size is not None
        h, c = state.numpy().reshape(-1, size.layers, 2, size.hidden).transpose(2, 1, 0, 3)
        return np.ascontiguousarray(h), np.ascontiguousarray(c)
