"""QRNN, convolution and pooling instead of a recurrent matrix (Bradbury et al., arXiv 1611.01576, section 2).

Shapes: B batch, T time, D width, H inner width.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.base import Cell, hold_bias, inner_width, state_dtype
from minrl.cells.nan_masks import contained
from minrl.scan import linear_scan, mingru_scan

Pooling = Literal["f", "fo", "ifo"]


class QRNN(Cell):
    """Gates z, f, o (and i) of this and the last input, then a gated sum over time.

    z_t = tanh(W_z [x_t, x_{t-1}]), f_t, o_t, i_t = sigmoid(W [x_t, x_{t-1}]) (equations 1 and 2, with biases);
    c_t = f_t c_{t-1} + (1 - f_t) z_t (f-pooling, whose output is c_t), h_t = o_t c_t (fo), or
    c_t = f_t c_{t-1} + i_t z_t, h_t = o_t c_t (ifo). An episode's first input is preceded by zero.

    The weight has the released code's name and order, z | f | o (| i) over x_t | x_{t-1}; the code's f, however, is
    the new input's share, the paper's the kept share.

    Args:
        width: D, of input and output.
        expand: H / D; a projection back to D follows where H is not D.
        pooling: "f", "fo" or "ifo".
        hold: initial log-odds of keeping the state at a step, spread over H from the first to the second.
    """

    def __init__(
        self, width: int, *, expand: float = 1.0, pooling: Pooling = "fo", hold: tuple[float, float] = (1.0, 2.5)
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        inner = inner_width(width, expand)
        self.width = width
        self.inner = inner
        self.pooling: Pooling = pooling
        self.state_size = width + inner
        self.linear = nn.Linear(2 * width, (1 + len(pooling)) * inner)
        self.down = nn.Identity() if inner == width else nn.Linear(inner, width, bias=False)
        with torch.no_grad():
            self.linear.bias[inner : 2 * inner] = hold_bias(inner, hold)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is the last input (B, D) | c (B, H)."""
        if state is None:
            state = self.initial_state(x.shape[0])
        recent, c = state.tensor_split([self.width], dim=1)
        before = torch.cat([recent.unsqueeze(1).to(x.dtype), x[:, :-1]], dim=1)
        if reset is not None:
            before = before.masked_fill(reset.unsqueeze(-1), 0.0)
        y, last = self._pool(torch.cat([x, before], dim=-1), c, reset)
        return y, torch.cat([x[:, -1].to(state.dtype), last], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        recent, c = state.tensor_split([self.width], dim=1)
        y, last = self._pool(torch.cat([x, recent.to(x.dtype)], dim=-1).unsqueeze(1), c, None)
        return y[:, 0], torch.cat([x.to(state.dtype), last], dim=1)

    def _pool(self, window: Tensor, c: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute from inputs x_t | x_{t-1} (B, T, 2D) -> outputs (B, T, D) and the last c (B, H)."""
        inner, weight, bias = self.inner, self.linear.weight, self.linear.bias
        if self.pooling == "ifo":
            z, f, o, i = F.linear(window, weight, bias).to(state_dtype(weight)).chunk(4, dim=-1)
            h, last = linear_scan(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(z), c, reset)
            h = (torch.sigmoid(o) * h).to(window.dtype)
        else:
            # 1 - f is minGRU's update gate: the sigmoid of f's input, negated.
            rows = torch.cat([-weight[inner : 2 * inner], weight[:inner]])
            gates = F.linear(window, rows, torch.cat([-bias[inner : 2 * inner], bias[:inner]]))
            h, last = mingru_scan(gates, c, reset, candidate="tanh")
        if self.pooling == "fo":
            h = torch.sigmoid(F.linear(window, weight[2 * inner :], bias[2 * inner :])) * h
        return self.down(h), last
