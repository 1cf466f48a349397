"""Critics of recurrent SAC: all heads as one batched matmul behind one trunk.

Shapes: N rows, M critics, I inputs and K outputs of a head, A action width, D width.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from minrl.online.trunk import Trunk


class Heads(nn.Module):
    """M equal MLPs with weights of their own, run together.

    Args:
        inputs: I.
        layers: widths of the hidden layers.
        outputs: K.
        count: M.
    """

    def __init__(self, inputs: int, layers: Sequence[int], outputs: int, count: int) -> None:
        super().__init__()
        sizes = [inputs, *layers, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for into, out in pairwise(sizes):
            bound = 1 / math.sqrt(into)  # as torch.nn.Linear
            self.weights.append(nn.Parameter(torch.empty(count, into, out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(count, 1, out).uniform_(-bound, bound)))

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Map (N, I) -> (M, N, K); `frozen` weights get no gradient, their input does."""
        y = x.expand(len(self.weights[0]), *x.shape)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = torch.baddbmm(bias.detach(), y, weight.detach()) if frozen else torch.baddbmm(bias, y, weight)
            if number + 1 < len(self.weights):
                y = torch.relu(y)
        return y


class Critic(nn.Module):
    """Features extractor, trunk and heads; without a trunk of its own it reads the latents of the actor's.

    Args:
        extractor: of Stable-Baselines3.
        trunk: None for the actor's.
        heads: of D inputs for choices, D + A for real actions.
    """

    def __init__(self, extractor: nn.Module | None, trunk: Trunk | None, heads: Heads) -> None:
        super().__init__()
        self.extractor, self.trunk, self.heads = extractor, trunk, heads
