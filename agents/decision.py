"""Return-conditioned behaviour cloning, after Decision Transformer (Chen et al. 2021, arXiv 2106.01345).

Differences: it trains on whole trajectories end to end (`context` gives windows instead), with one token for each
step (`tokens="triple"` gives return-to-go, observation and action), and it acts from the carried state (with
`context` it rescans the window instead, unless `refeed` is off). With `return_expectile` the return-to-go is
predicted (`minrl/models/largest_return.py`) instead of given as a target.

Shapes: B batch, T time, O flat observation width, A flat action width, D width, S state size.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from minrl.agent import Agent, Batch, Loss, Moment, Sampler
from minrl.cells import Cell
from minrl.data.batches import Packed, Windows
from minrl.data.episode import Episodes
from minrl.data.task import Task
from minrl.models.compiled_act import Inputs, fused_step, overrides
from minrl.models.context_window import Refeed, carried_state_caution
from minrl.models.embedding import Part, dropped, embedded
from minrl.models.encoders import ActionUnits, Normalizer
from minrl.models.heads import head_for
from minrl.models.largest_return import LargestReturn

from .decision_config import DecisionConfig

__all__ = ["DecisionAgent", "DecisionConfig"]


class DecisionAgent(Agent):
    """Return-conditioned agent with the settings `config`, for the data set and environment of `task`."""

    name = "decision"
    config_class = DecisionConfig
    config: DecisionConfig

    def __init__(self, config: DecisionConfig, task: Task) -> None:
        super().__init__(config, task)
        width, observation, action = config.width, task.observation_size, task.action_size
        self.action_size, self.triple = action, config.tokens == "triple"
        self.return_scale = task.return_scale if config.return_scale is None else config.return_scale
        self.target_return = task.best_return if config.target_return is None else config.target_return
        self.largest_return: LargestReturn | None = None
        self.normalizer = Normalizer(observation)
        self.embed_return = nn.Linear(1, width)
        self.embed_observation = nn.Linear(observation, width)
        uses_action = self.triple or config.previous_action
        self.embed_action = nn.Linear(action, width) if uses_action else None
        self.embed_time = nn.Embedding(task.longest_episode, width) if config.time_embedding else None
        self.embed_norm = nn.LayerNorm(width) if config.embed_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.tokens_per_step = 3 if self.triple else 1
        # The last step of the window has no action token yet.
        window = 0 if config.context is None else self.tokens_per_step * config.context - (1 if self.triple else 0)
        self.backbone: Cell = config.backbone(dropout=config.dropout)
        # In a list, so that the backbone's weights are registered once.
        self._acting = [Refeed(self.backbone, window) if config.refeed else self.backbone]
        self.head = head_for(task, width, config.action_loss, tanh=config.tanh_actions)
        self.loss_unit = self.head.loss_unit
        self.action_units = ActionUnits(task, bounds=config.tanh_actions)
        self.memory_sizes = [self.backbone.state_size, 0]
        self.state_sizes = [_COLUMNS + action + self.acting.state_size, 0]
        if config.return_expectile is not None:
            self.target_return = None
            self.loss_unit += " + variances of returns-to-go"
            self.largest_return = LargestReturn(
                config,
                observation,
                action,
                self.return_scale,
                expectile=config.return_expectile,
                previous_action=config.previous_action,
                dropout=config.dropout,
                window=config.context if config.refeed else None,
            )
            self.memory_sizes[1], self.state_sizes[1] = self.largest_return.memory_size, self.largest_return.state_size
        self.memory_size, self.state_size = sum(self.memory_sizes), sum(self.state_sizes)

    @property
    def acting(self) -> Cell:
        """Return the model that acts: the backbone, or the backbone that rescans a window."""
        return self._acting[0]

    @property
    def max_target_return(self) -> float:
        """Return the cap of target returns, or of predicted returns-to-go: the best of the data, or none.

        A target is for a whole episode, and rewards are subtracted from it. A prediction is for the rest of one: its
        cap is the best at any step, which exceeds every episode's return where rewards are negative.
        """
        if not self.config.cap_return:
            return math.inf
        if self.largest_return is None:
            return self.task.best_return
        best = self.task.best_return_to_go
        # Checkpoints without it: no less than at the end of an episode, where nothing is left to earn.
        return max(self.task.best_return, 0.0) if best is None else best

    def set_target_return(self, target_return: float) -> None:
        """Set the default target return; it is saved with the weights."""
        self.config, self.target_return = replace(self.config, target_return=target_return), target_return

    def cautions(self) -> list[str]:
        """Return cautions as `Agent.cautions` does."""
        return carried_state_caution(self.config.context, self.config.refeed)

    def fit_normalization(self, episodes: Episodes) -> None:
        """Fit the normalisation as `Agent.fit_normalization` does."""
        self.normalizer.fit(episodes)

    def sampler(self, episodes: Episodes, *, batch_size: int, length: int, seed: int) -> Sampler:
        """Return a sampler as `Agent.sampler` does."""
        if self.config.context is not None:
            return Windows(episodes, batch_size=batch_size, length=self.config.context, seed=seed)
        return Packed(episodes, batch_size=batch_size, length=length, seed=seed)

    def loss(self, batch: Batch, memory: Tensor | None = None) -> Loss:
        """Compute the loss as `Agent.loss` does."""
        own, other = (None, None) if memory is None else memory.split(self.memory_sizes, dim=1)
        features, last = self._features(batch, own, self.backbone)
        losses = self.head.loss(features, batch.actions, batch.action_masks)
        if self.largest_return is not None:
            seen = self.normalizer(batch.observations), self._previous(batch)
            further, of_returns = self.largest_return.loss(*seen, batch.returns_to_go, other, batch.reset)
            losses, last = losses + further, torch.cat([last, of_returns], dim=1)
        return Loss(total=(losses * batch.mask).sum(), count=batch.mask.sum(), memory=last.detach())

    def predict(self, batch: Batch) -> Tensor:
        """Predict as `Agent.predict` does."""
        features, _ = self._features(self._with_targets(batch), None, self.acting)
        return self.head.act(features, masks=batch.action_masks)

    def initial_state(self, batch_size: int, target_return: float | Tensor | None = None) -> Tensor:
        """Return the initial state as `Agent.initial_state` does; target returns may differ, (B,).

        Raises:
            ValueError: for a target return if the agent predicts it (`return_expectile`), and for none if it has none.
        """
        memory = self.acting.initial_state(batch_size)
        state = torch.zeros(batch_size, self.state_size, dtype=memory.dtype, device=memory.device)
        if self.largest_return is None:
            target_return = self.target_return if target_return is None else target_return
            if target_return is None:
                raise ValueError("the best return of the data is unknown: give a target return")
            state[:, 0] = torch.as_tensor(target_return, dtype=memory.dtype, device=memory.device)
        elif target_return is not None:
            raise ValueError("this decision agent predicts its return-to-go (return_expectile): give no target return")
        return state

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        """Act as `Agent.act` does, on a CPU without gradients in one compiled call if the agent has one."""
        if self.largest_return is None:
            return self._step(moment, state, deterministic)
        state, memory = state.split(self.state_sizes, dim=1)
        start = moment.episode_start.unsqueeze(1)
        previous = state[:, _COLUMNS : _COLUMNS + self.action_size].masked_fill(start, 0.0)
        seen = self.normalizer(moment.observation), previous
        largest, memory = self.largest_return.step(*seen, memory.masked_fill(start, 0.0))
        # The prediction is the return-to-go itself: no reward is subtracted.
        zero = torch.zeros_like(moment.reward)
        state = torch.cat([largest.unsqueeze(1), zero.unsqueeze(1), state[:, 2:]], dim=1)
        action, state = self._step(replace(moment, reward=zero), state, deterministic)
        return action, torch.cat([state, memory], dim=1)

    def _step(self, moment: Moment, state: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """Act on the target return in the state less the rewards so far."""
        if fused := fused_step(self, self._inputs, moment, state, deterministic=deterministic):
            return fused
        start = moment.episode_start.unsqueeze(1)
        target, episode = state[:, :1], state[:, 1:].masked_fill(start, 0.0)
        earned, time, previous, memory = episode.split([1, 1, self.action_size, self.acting.state_size], dim=1)
        earned = earned + moment.reward.unsqueeze(1).masked_fill(start, 0.0)
        if self.triple and self.embed_action is not None:
            token = self._normed(self.embed_action(previous) + self._time(time[:, 0] - 1))
            memory = torch.where(time == 0, memory, _remember(self.acting, token, memory))
        capped = target.clamp_max(self.max_target_return) if self.config.cap_return else target
        *earlier, token = self._tokens(moment.observation, capped - earned, previous, time[:, 0])
        for part in earlier:
            memory = _remember(self.acting, part, memory)
        features, memory = self.acting.step(token, memory)
        action = self.head.act(features, deterministic=deterministic, masks=moment.action_masks)
        remembered = self.action_units(action).to(state.dtype)
        return action, torch.cat([target, earned, time + 1, remembered, memory], dim=1)

    def embed(self, observation: Tensor, previous: Tensor) -> Tensor:
        """Return the backbone's input for the full target return at every step: (..., O), (..., A) -> (..., D).

        Raises:
            ValueError: if a step has several tokens or a time embedding, or the return-to-go is predicted.
        """
        if self.triple or self.embed_time is not None or self.largest_return is not None:
            kinds = "tokens=triple, time_embedding or return_expectile"
            raise ValueError(f"a decision agent with {kinds} cannot act without its returns")
        assert self.target_return is not None
        target = min(self.target_return, self.max_target_return)
        remaining = observation.new_full((*observation.shape[:-1], 1), target)
        return self._tokens(observation, remaining, previous, remaining)[0]

    def _inputs(self) -> Inputs | None:
        """Return the parts of the compiled step; None if it would compute other equations."""
        if self.triple or self.embed_norm is not None or self.acting is not self.backbone:
            return None
        if overrides(self, DecisionAgent, "_step", "_tokens", "_time", "acting", "max_target_return"):
            return None
        return Inputs(
            normalizer=self.normalizer,
            embed_observation=self.embed_observation,
            backbone=self.acting,
            head=self.head,
            action_units=self.action_units,
            embed_action=self.embed_action,
            embed_return=self.embed_return,
            embed_time=self.embed_time,
            return_scale=self.return_scale,
            most=self.max_target_return,
            attributes=("config", "task", "triple", "return_scale", "_acting"),
        )

    def _with_targets(self, batch: Batch) -> Batch:
        """Return the batch with the returns-to-go that `act` would use: predicted, or capped.

        In a capped episode they start from the best return of the data, so each falls by the excess of the episode's
        return over the best, wherever a window begins.
        """
        if self.largest_return is not None:
            seen = self.normalizer(batch.observations), self._previous(batch)
            predicted = self.largest_return.scan(*seen, batch.reset)
            return replace(batch, returns_to_go=predicted.clamp_max(self.max_target_return))
        if not self.config.cap_return:
            return batch
        first_returns = batch.first_returns
        if first_returns is None:
            steps = torch.arange(batch.reset.shape[1], device=batch.reset.device)
            first_returns = batch.returns_to_go.gather(1, torch.where(batch.reset, steps, 0).cummax(dim=1).values)
        excess = (first_returns - self.task.best_return).clamp_min(0.0)
        return replace(batch, returns_to_go=batch.returns_to_go - excess)

    def _features(self, batch: Batch, memory: Tensor | None, model: Cell) -> tuple[Tensor, Tensor]:
        """Return the features of each step (B, T, D) and the last hidden state."""
        inputs = batch.observations, batch.returns_to_go.unsqueeze(-1), self._previous(batch)
        if not self.triple and self.embed_time is None and self.embed_norm is None:
            return model.scan(embedded(self._parts(*inputs), self.dropout), memory, batch.reset)
        tokens = self._tokens(*inputs, batch.time_steps)
        if not self.triple or self.embed_action is None:
            return model.scan(dropped(self.dropout, tokens[0]), memory, batch.reset)
        action = self._normed(self.embed_action(self.action_units(batch.actions)) + self._time(batch.time_steps))
        # (B, T, 3, D) -> (B, 3T, D): an episode opens with its first return-to-go.
        x = dropped(self.dropout, torch.stack([*tokens, action], dim=2).flatten(1, 2))
        later = torch.zeros_like(batch.reset)
        reset = torch.stack([batch.reset, later, later], dim=2).flatten(1, 2)
        y, last = model.scan(x, memory, reset)
        return y[:, 1::3], last

    def _tokens(self, observation: Tensor, remaining: Tensor, previous: Tensor, time: Tensor) -> list[Tensor]:
        """Return the tokens of a step before its action: (..., O), (..., 1), (..., A), (...) -> (..., D) each."""
        embedded = self.embed_observation(self.normalizer(observation))
        of_return, of_time = self.embed_return(remaining / self.return_scale), self._time(time)
        if self.triple:
            return [self._normed(of_return + of_time), self._normed(embedded + of_time)]
        token = embedded + of_return
        if self.embed_time is not None:
            token = token + of_time
        if self.embed_action is not None:
            token = token + self.embed_action(previous)
        return [self._normed(token)]

    def _normed(self, token: Tensor) -> Tensor:
        return token if self.embed_norm is None else self.embed_norm(token)

    def _parts(self, observation: Tensor, remaining: Tensor, previous: Tensor) -> list[Part]:
        """Return the layers whose outputs add up to the token of a step, each with its input, as for `_tokens`."""
        parts = [
            (self.embed_observation, self.normalizer(observation)),
            (self.embed_return, remaining / self.return_scale),
        ]
        return parts if self.embed_action is None else [*parts, (self.embed_action, previous)]

    def _previous(self, batch: Batch) -> Tensor:
        return self.action_units.previous(batch.previous_actions, batch.time_steps == 0)

    def _time(self, time: Tensor) -> Tensor | float:
        if self.embed_time is None:
            return 0.0
        embedded: Tensor = self.embed_time(time.long().clamp(0, self.embed_time.num_embeddings - 1))
        return embedded


def _remember(model: Cell, token: Tensor, memory: Tensor) -> Tensor:
    """Advance the hidden state by one token; discard the output."""
    return model.push(token, memory) if isinstance(model, Refeed) else model.step(token, memory)[1]


# Columns of the acting state before the previous action and hidden state: target return, rewards so far, time step.
_COLUMNS = 3
