"""Maximum-return conditioning: predicts the largest return-to-go that the data reached from the current history.

After Reinformer (Zhuang et al. 2024, arXiv 2405.08740): expectile regression with an expectile near 1 tends to the
largest return among those in the data (sections 3 and 4). Unlike there, a separate block predicts it, which reads
observations (and previous actions if the agent does) but no return. From a return among its inputs it would learn to
subtract rewards, and over whole trajectories predict the maximum at the first step alone.

Shapes: B batch, T time, O flat observation width, A flat action width, D width, S state size.
"""

import torch
from torch import Tensor, nn

from minrl.cells import Cell
from minrl.models.backbone_config import BackboneConfig
from minrl.models.context_window import Refeed
from minrl.models.embedding import embedded
from minrl.models.losses import expectile_loss


class LargestReturn(nn.Module):
    """Predictor with one block of the agent's cell over the episode so far, trained by expectile regression.

    Args:
        config: of the agent's backbone, of which one block is taken.
        observation: O.
        action: A.
        return_scale: unit of returns.
        expectile: predicted expectile, in [0.5, 1).
        previous_action: True to read the previous action.
        dropout: probability, on embeddings and in the block.
        window: steps that are rescanned when the agent acts; None to carry the state.
    """

    def __init__(
        self,
        config: BackboneConfig,
        observation: int,
        action: int,
        return_scale: float,
        *,
        expectile: float,
        previous_action: bool,
        dropout: float,
        window: int | None,
    ) -> None:
        super().__init__()
        self.expectile, self.return_scale = expectile, return_scale
        self.embed_observation = nn.Linear(observation, config.width)
        self.embed_action = nn.Linear(action, config.width) if previous_action else None
        self.dropout = nn.Dropout(dropout)
        self.backbone = config.backbone(depth=1, dropout=dropout)
        self.linear = nn.Linear(config.width, 1)
        # In a list, so that the backbone's weights are registered once.
        self._acting: list[Cell] = [self.backbone if window is None else Refeed(self.backbone, window)]
        self.memory_size, self.state_size = self.backbone.state_size, self._acting[0].state_size

    def loss(
        self, observation: Tensor, previous: Tensor, returns: Tensor, memory: Tensor | None, reset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the expectile loss of each step in units of the scale, and the last hidden state.

        Normalised (B, T, O), (B, T, A), (B, T), (B, S), (B, T) -> (B, T), (B, S).
        """
        predicted, last = self._scan(self.backbone, observation, previous, memory, reset)
        return expectile_loss(returns / self.return_scale - predicted, self.expectile), last

    def scan(self, observation: Tensor, previous: Tensor, reset: Tensor) -> Tensor:
        """Predict at every step from the zero state: (B, T, O), (B, T, A), (B, T) -> (B, T)."""
        return self.return_scale * self._scan(self._acting[0], observation, previous, None, reset)[0]

    def step(self, observation: Tensor, previous: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Predict before an action: (B, O), (B, A), (B, S) -> (B,), (B, S)."""
        token = self.embed_observation(observation)
        if self.embed_action is not None:
            token = token + self.embed_action(previous)
        features, state = self._acting[0].step(token, state)
        return self.return_scale * self._read(features), state

    def _scan(
        self, model: Cell, observation: Tensor, previous: Tensor, memory: Tensor | None, reset: Tensor
    ) -> tuple[Tensor, Tensor]:
        parts = [(self.embed_observation, observation)]
        if self.embed_action is not None:
            parts.append((self.embed_action, previous))
        features, last = model.scan(embedded(parts, self.dropout), memory, reset)
        return self._read(features), last

    def _read(self, features: Tensor) -> Tensor:
        predicted: Tensor = self.linear(features).squeeze(-1)
        return predicted.float() if predicted.dtype in (torch.bfloat16, torch.float16) else predicted
