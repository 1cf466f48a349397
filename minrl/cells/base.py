"""The contract of a sequence model: one function, computed over whole sequences or one step at a time.

Shapes: B batch, T time, D width, S state size.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class Cell(nn.Module, ABC):
    """Causal sequence model whose state is one tensor (B, S), initially zero.

    `scan` over T steps, T calls of `step`, and any cut of the sequence with the state carried over give the
    same outputs, final state and gradients. The state is float32 (float64 where the weights are), also under
    autocast.

    Called as a module, a cell runs `scan` on x (B, T, D) and `step` on x (B, D), and torch runs its hooks. Backbones,
    blocks and convolutions call their parts so, and themselves where `scan` or `step` is called by name.
    """

    width: int
    state_size: int
    # True if `scan` reads values back to the host, so that no CUDA graph can record it.
    reads_back: ClassVar[bool] = False
    # Own parameters, by name, without weight decay though they have several dimensions: time constants, biases of
    # several heads and other parameters that the family's published training exempts.
    undecayed: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over whole sequences: (B, T, D), (B, S), (B, T) bool -> (B, T, D), (B, S).

        `reset[b, t]` is True where `x[b, t]` opens an episode: step t then starts from the zero state, and no
        gradient crosses. `state=None` is the zero state, `reset=None` no reset.
        """

    @abstractmethod
    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one step: (B, D), (B, S) -> (B, D), (B, S)."""

    def forward(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run `scan` on x (B, T, D), or `step` on x (B, D); `state=None` is the zero state."""
        if x.dim() == 2:
            return self.step(x, self.initial_state(x.shape[0]) if state is None else state)
        return self.scan(x, state, reset)

    def initial_state(self, batch_size: int) -> Tensor:
        """Return the zero state (B, S), on the device and in the precision of the weights."""
        weight = next(self.parameters())
        return torch.zeros(batch_size, self.state_size, dtype=state_dtype(weight), device=weight.device)


def state_dtype(like: Tensor) -> torch.dtype:
    """Return the precision of states: float64 for float64 weights, else float32."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def hold_bias(size: int, hold: tuple[float, float]) -> Tensor:
    """Return evenly spread log-odds (size,) of keeping the state at a step, from `hold[0]` to `hold[1]`.

    With zero bias a gated state halves at each step, and tasks with a delay stay at chance.
    """
    return torch.linspace(hold[0], hold[1], size)


def inner_width(width: int, expand: float) -> int:
    """Compute H = expand * width; raise ValueError if that is no positive integer."""
    inner = round(width * expand)
    if inner < 1 or abs(inner - width * expand) > 1e-6:
        raise ValueError(f"expand={expand} times width={width} must be a whole number of at least 1")
    return inner


def orthogonal(inputs: int, outputs: int) -> nn.Linear:
    """Return a layer without bias whose weight starts orthogonal."""
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.orthogonal_(linear.weight, gain=math.sqrt(max(1.0, outputs / inputs)))
    return linear
