"""RG-LRU, Griffin's gated linear recurrence, in its recurrent block (De et al., arXiv 2402.19427, sections 2.3, 2.4).

Shapes: B batch, T time, D width, H inner width, K blocks of the gates.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells import convolution, diagonal
from minrl.cells.base import Cell, inner_width, state_dtype
from minrl.cells.nan_masks import contained
from minrl.scan import linear_scan

# The published c.
_C = 8.0


class RGLRU(Cell):
    """Recurrent block: linear -> convolution -> RG-LRU, times linear -> GeLU, then linear back to D.

    r_t = sigmoid(W_a u_t + b_a), i_t = sigmoid(W_x u_t + b_x), a_t = sigmoid(Lambda)^(c r_t),
    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t) (equations 1 to 4). The whole block is the cell, as the recurrence
    and its block-diagonal gates do not mix channels; its own convolution can stand in for the one of
    `minrl.backbone.Block` (`conv=0` there). These equations hold at an episode's first step too: the released code
    takes i_t u_t alone there, which a carried zero state does not distinguish.

    Names of weights are those of the released code (`recurrent_param` is -Lambda), the convolution's lies as (taps, H).

    Args:
        width: D, of input and output.
        expand: H / D.
        blocks: K, of the gates' block-diagonal matrices; None is the largest divisor of H up to 16.
        conv_width: taps of the convolution; 0 leaves it out.
    """

    # The gates' biases have a row for each block; Lambda is a time constant.
    undecayed = frozenset({"input_gate_bias", "recurrent_gate_bias", "recurrent_param"})

    def __init__(self, width: int, *, expand: float = 1.0, blocks: int | None = None, conv_width: int = 4) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        count = max(k for k in range(1, 17) if inner % k == 0) if blocks is None else blocks
        if count < 1 or inner % count:
            raise ValueError(f"blocks must divide expand * width = {inner}, got {count}")
        size = inner // count
        self.width = width
        self.linear_y = nn.Linear(width, inner)
        self.linear_x = nn.Linear(width, inner)
        self.conv_1d = convolution.ShortConvolution(inner, conv_width) if conv_width else None
        self.input_gate_weight = nn.Parameter(torch.randn(count, size, size) / math.sqrt(size))
        self.input_gate_bias = nn.Parameter(torch.zeros(count, size))
        self.recurrent_gate_weight = nn.Parameter(torch.randn(count, size, size) / math.sqrt(size))
        self.recurrent_gate_bias = nn.Parameter(torch.zeros(count, size))
        # sigmoid(Lambda)^c starts uniform in [0.9, 0.999] (section 2.4); log(expm1) undoes the softplus.
        slowness = -torch.empty(inner, dtype=torch.float64).uniform_(0.9, 0.999).log() / _C
        self.recurrent_param = nn.Parameter(torch.log(torch.expm1(slowness)).float())
        self.linear_out = nn.Linear(inner, width)
        self.recent_size = 0 if self.conv_1d is None else self.conv_1d.state_size
        self.state_size = self.recent_size + inner
        for linear in (self.linear_y, self.linear_x, self.linear_out):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is the convolution's last inputs | h (B, H)."""
        if state is None:
            state = self.initial_state(x.shape[0])
        recent, h = state.tensor_split([self.recent_size], dim=1)
        u = self.linear_x(x)
        if self.conv_1d is not None:
            u, recent = self.conv_1d.scan(u, recent, reset)
        y, last = linear_scan(*self._recurrence(u), h, reset)
        return self._out(y, x), torch.cat([recent, last], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        recent, h = state.tensor_split([self.recent_size], dim=1)
        u = self.linear_x(x)
        if self.conv_1d is not None:
            u, recent = self.conv_1d.step(u, recent)
        decay, drive = self._recurrence(u)
        h = torch.addcmul(drive, decay, h)
        return self._out(h, x), torch.cat([recent, h], dim=1)

    def _recurrence(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a and sqrt(1 - a^2) (i u), (…, H), in the state's precision."""
        precision = state_dtype(self.recurrent_param)
        gate = self._gate(u, self.recurrent_gate_weight, self.recurrent_gate_bias)
        slowness = _C * gate * F.softplus(self.recurrent_param.to(precision))  # -log a
        # 1 - a^2 = -expm1(-2 slowness): a naive 1 - a^2 has no correct digit for decays near 1. The bound keeps the
        # root's slope finite where the gate is closed to 0 in float32.
        scale = (-diagonal.expm1(-2 * slowness)).clamp(min=torch.finfo(precision).tiny).sqrt()
        insert = self._gate(u, self.input_gate_weight, self.input_gate_bias)
        return torch.exp(-slowness), scale * insert * u.to(precision)

    def _gate(self, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the sigmoid of a block-diagonal matrix (K, H / K, H / K) times u (…, H)."""
        pre = torch.einsum("...ki,kij->...kj", u.unflatten(-1, bias.shape), weight)
        return torch.sigmoid((pre + bias).flatten(-2).to(state_dtype(self.recurrent_param)))

    def _out(self, h: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.linear_out(h.to(x.dtype) * F.gelu(self.linear_y(x), approximate="tanh"))
        return out
