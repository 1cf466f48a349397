"""Backbone of a policy between features and heads.

Shapes: B environments or segments, T time, F features, D width, S state size, P width of the previous action and
reward.
"""

import torch
from torch import Tensor, nn

from minrl.backbone import Backbone
from minrl.models.encoders import Memoryless


class Trunk(nn.Module):
    """Backbone of features, episode start and previous-step input.

    Args:
        inputs: F + 1 + P.
        backbone: of width D; a critic's may be a `Memoryless`.
    """

    def __init__(self, inputs: int, backbone: Backbone | Memoryless) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, backbone.width)
        self.backbone = backbone

    def scan(self, features: Tensor, previous: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, F), (B, T, P), (B, S), (B, T) bool -> (B, T, D), (B, S)."""
        return self.backbone.scan(self._embedded(features, previous, reset), state, reset)

    def step(self, features: Tensor, previous: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, F), (B, P), (B, S), (B,) bool -> (B, D), (B, S)."""
        state = state.masked_fill(reset.unsqueeze(1), 0.0)
        return self.backbone.step(self._embedded(features, previous, reset), state)

    def _embedded(self, features: Tensor, previous: Tensor, reset: Tensor) -> Tensor:
        start = reset.unsqueeze(-1).to(features.dtype)
        embedded: Tensor = self.embed(torch.cat([features, start, previous], dim=-1))
        return embedded
