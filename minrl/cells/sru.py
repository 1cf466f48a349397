"""SRU (Lei et al., arXiv 1709.02755) without v_f and v_r, by which gates read the state: a parallel scan.

Shapes: B batch, T time, D width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.base import Cell, hold_bias
from minrl.cells.nan_masks import contained
from minrl.scan import mingru_scan


class SRU(Cell):
    """c_t = f_t c_{t-1} + (1 - f_t) W x_t, h_t = r_t c_t + (1 - r_t) alpha x_t, gates from the input alone.

    f_t = sigmoid(W_f x_t + b_f), r_t = sigmoid(W_r x_t + b_r): the equations of the paper's first version (section
    2), with the last version's highway connection (equations 3 and 4): no map of c_t, and x_t times alpha. The last
    version also adds v_f c_{t-1} and v_r c_{t-1} to the gates (equations 1 and 3); with v_f the recurrence is not
    linear in c and no parallel scan, so both are left out here: this is the paper's ablation, not its full unit.

    Initialised as in section 3.2. The released code's `weight` (D, 3D), W | W_f | W_r unit by unit, lies as rows
    (3D, D) part by part here; `bias` is b_f | b_r, as there.

    Args:
        width: D, of input and output.
        rescale: alpha = sqrt(1 + 2 exp(highway_bias)), which keeps the variance at the start; else alpha = 1.
        highway_bias: b_r at the start.
        hold: initial log-odds of keeping the state at a step, spread over D from the first to the second.
    """

    def __init__(
        self,
        width: int,
        *,
        rescale: bool = True,
        highway_bias: float = 0.0,
        hold: tuple[float, float] = (1.0, 2.5),
    ) -> None:
        super().__init__()
        self.width = width
        self.state_size = width
        self.scale_x = math.sqrt(1 + 2 * math.exp(highway_bias)) if rescale else 1.0
        bound = math.sqrt(3 / width)
        self.weight = nn.Parameter(torch.empty(3 * width, width).uniform_(-bound, bound))  # content | forget | reset
        self.bias = nn.Parameter(torch.cat([hold_bias(width, hold), torch.full((width,), highway_bias)]))

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is c (B, D)."""
        content, forget, highway = self.weight.chunk(3)
        of_forget, of_highway = self.bias.chunk(2)
        # 1 - f is minGRU's update gate: the sigmoid of f's input, negated.
        bias = torch.cat([-of_forget, torch.zeros_like(of_forget)])
        gates = F.linear(x, torch.cat([-forget, content]), bias)
        c, last = mingru_scan(gates, state, reset, candidate="linear")
        r = torch.sigmoid(F.linear(x, highway, of_highway))
        return r * c + (1 - r) * (self.scale_x * x), last

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        y, last = self.scan(x.unsqueeze(1), state)
        return y[:, 0], last
