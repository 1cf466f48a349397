"""MinLSTM (Were RNNs All We Needed?, arXiv 2410.01201, section 3.2): gates of the input alone.

Shapes: B batch, T time, D width, H inner width.
"""

import torch
from torch import Tensor, nn

from minrl.cells.base import Cell, hold_bias, inner_width
from minrl.cells.nan_masks import contained
from minrl.kernels.matmul import layer, layer_of_step
from minrl.scan import Candidate, candidate_checked, gated_layer, minlstm_scan


class MinLSTM(Cell):
    """MinLSTM with an optional wider inner state and a projection back.

    Args:
        width: D, of input and output.
        expand: H / D, the paper's alpha; a projection back to D follows where H is not D.
        candidate: the map of the candidate: "positive" (the paper's g), "tanh" or "linear".
        signed: decays in (-1, 1) instead of (0, 1), so that a state can flip its sign (it solves parity).
        hold: initial log-odds of keeping the state at a step, spread over H from the first to the second.
        bias: of the gates; without it `hold` has no effect.
    """

    def __init__(
        self,
        width: int,
        *,
        expand: float = 1.0,
        candidate: Candidate = "positive",
        signed: bool = False,
        hold: tuple[float, float] = (1.0, 2.5),
        bias: bool = True,
    ) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        self.width = width
        self.state_size = inner
        self.candidate: Candidate = candidate_checked(candidate)
        self.signed = signed
        self.gates = nn.Linear(width, 3 * inner, bias=bias)  # forget gate | input gate | candidate
        self.down = nn.Identity() if inner == width else nn.Linear(inner, width, bias=False)
        if bias:
            with torch.no_grad():
                # With f = sigmoid(b) and i = sigmoid(-b) the kept share f / (f + i) is sigmoid(b) exactly.
                self.gates.bias[:inner] = hold_bias(inner, hold)
                self.gates.bias[inner : 2 * inner] = -hold_bias(inner, hold)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is h (B, H)."""
        h, last = gated_layer(self.gates, x, state, reset, parts=3, candidate=self.candidate, signed=self.signed)
        return layer(self.down, h), last

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does; on a CPU equal to `scan`, to the bit if widths are multiples of eight."""
        gates = layer_of_step(self.gates, x).unsqueeze(1)
        h, last = minlstm_scan(gates, state, candidate=self.candidate, signed=self.signed)
        return layer_of_step(self.down, h[:, 0]), last
