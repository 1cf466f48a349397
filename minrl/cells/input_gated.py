"""Cells with gates of the input alone (Were RNNs All We Needed?, arXiv 2410.01201).

Shapes: B batch, T time, D width, H inner width, P parts of the gates.
"""

from abc import abstractmethod
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from minrl.cells.base import Cell, hold_bias, inner_width
from minrl.cells.nan_masks import contained
from minrl.kernels.matmul import layer, layer_of_step
from minrl.scan import Candidate, candidate_checked, gated_scan

Gate = Literal["sigmoid", "hard"]


class InputGated(Cell):
    """Linear map of the input to gates and candidate, their scan, and a projection back if H is not D."""

    parts: ClassVar[int]  # P

    def __init__(
        self,
        width: int,
        *,
        expand: float = 1.0,
        candidate: Candidate = "positive",
        signed: bool = False,
        gate: Gate = "sigmoid",
        hold: tuple[float, float] = (1.0, 2.5),
        bias: bool = True,
    ) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        self.width = width
        self.state_size = inner
        self.candidate: Candidate = candidate_checked(candidate)
        self.signed = signed
        if gate not in get_args(Gate):
            raise ValueError(f"gate must be one of {', '.join(get_args(Gate))}, got {gate!r}")
        self.gate: Gate = gate
        self.gates = nn.Linear(width, self.parts * inner, bias=bias)
        self.down = nn.Identity() if inner == width else nn.Linear(inner, width, bias=False)
        if bias:
            with torch.no_grad():
                self._hold(self.gates.bias.view(self.parts, inner), hold_bias(inner, hold))

    @abstractmethod
    def _hold(self, bias: Tensor, log_odds: Tensor) -> None:
        """Set the biases (P, H) of the gates so that the state is kept with log-odds (H,)."""

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is h (B, H)."""
        h, last = self._scan(layer(self.gates, x), state, reset)
        return layer(self.down, h), last

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does; on a CPU equal to `scan`, to the bit if widths are multiples of eight."""
        h, last = self._scan(layer_of_step(self.gates, x).unsqueeze(1), state, None)
        return layer_of_step(self.down, h[:, 0]), last

    def _scan(self, gates: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        return gated_scan(
            gates,
            state,
            reset,
            parts=self.parts,
            candidate=self.candidate,
            signed=self.signed,
            hard=self.gate == "hard",
        )
