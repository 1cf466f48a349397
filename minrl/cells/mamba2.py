"""Mamba-2's state space dual layer (Dao and Gu, 2024, arXiv 2405.21060, section 7).

Shapes: B batch, T time, D width, I inner width, H heads of P channels, N states of a channel.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells import convolution
from minrl.cells.base import Cell, inner_width, state_dtype
from minrl.cells.matrix_memory import Memory, matrix_memory, matrix_step
from minrl.cells.nan_masks import contained


class Mamba2(Cell):
    """Block of figure 6: one projection to all, short convolution, state space of one decay per head, gated norm.

    Names and initialisation of weights are the published ones; the convolution's weight lies as (taps, channels).

    Args:
        width: D, of input and output.
        expand: I / D.
        state_width: N, the published `d_state`.
        head_width: P, the published `headdim`; it must divide I. None is the largest divisor of I that divides 64.
        conv_width: taps of the convolution, at least 2.
    """

    # As in the published code: mamba_ssm/modules/mamba2.py.
    undecayed = frozenset({"dt_bias", "A_log", "D"})

    def __init__(
        self,
        width: int,
        *,
        expand: float = 2.0,
        state_width: int = 64,
        head_width: int | None = None,
        conv_width: int = 4,
    ) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        head_width = math.gcd(64, inner) if head_width is None else head_width
        if state_width < 1 or head_width < 1 or inner % head_width:
            raise ValueError(
                f"state_width must be at least 1 and head_width must divide expand * width = {inner}, "
                f"got state_width={state_width} and head_width={head_width}"
            )
        heads = inner // head_width
        self.width = width
        self.shape = (heads, state_width, head_width)
        self.sizes = (inner, state_width, state_width)  # x | B | C
        self.in_proj = nn.Linear(width, inner + sum(self.sizes) + heads, bias=False)  # z | x, B, C | step size
        self.conv = convolution.ShortConvolution(sum(self.sizes), conv_width, compiled=True)
        # Step sizes start log-uniform in [0.001, 0.1]; log(expm1) undoes the softplus. A = -exp(A_log) starts
        # uniform in [-16, -1].
        step = torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1.0, 16.0).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.state_size = self.conv.state_size + inner * state_width

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is the convolution's last inputs | S (B, H * N * P)."""
        if state is None:
            state = self.initial_state(x.shape[0])
        recent, memory = self._split(state)
        z, u, dt = self._projected(x)
        u, recent = self.conv.scan(u, recent, reset)
        with torch.autocast(x.device.type, enabled=False):
            skip, query, key, value, log_decay = self._selection(u, dt)
            y, memory, _ = matrix_memory(query, key, value, log_decay, None, memory, reset)
        return self._out(y + skip, z), torch.cat([recent, memory.matrix.flatten(1)], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        recent, memory = self._split(state)
        z, u, dt = self._projected(x)
        u, recent = self.conv.step(u, recent)
        with torch.autocast(x.device.type, enabled=False):
            skip, query, key, value, log_decay = self._selection(u, dt)
            y, memory = matrix_step(query, key, value, log_decay, None, memory)
        return self._out(y + skip, z), torch.cat([recent, memory.matrix.flatten(1)], dim=1)

    def _split(self, state: Tensor) -> tuple[Tensor, Memory]:
        recent, matrix = state.tensor_split([self.conv.state_size], dim=1)
        return recent, Memory(matrix.unflatten(1, self.shape))

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, u, dt = self.in_proj(x).split([self.sizes[0], sum(self.sizes), self.shape[0]], dim=-1)
        return z, u, dt

    def _selection(self, u: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return D x (…, H, P), then query C, key B (…, 1, N), value dt x (…, H, P) and log decay dt A (…, H)."""
        precision = state_dtype(self.A_log)
        x, b, c = F.silu(u.to(precision)).split(self.sizes, dim=-1)
        x = x.unflatten(-1, (self.shape[0], -1))
        dt = F.softplus(dt.to(precision) + self.dt_bias.to(precision))
        log_decay = dt * -torch.exp(self.A_log.to(precision))
        skip = self.D.to(precision).unsqueeze(-1) * x
        return skip, c.unsqueeze(-2), b.unsqueeze(-2), dt.unsqueeze(-1) * x, log_decay

    def _out(self, y: Tensor, z: Tensor) -> Tensor:
        """Apply the gated RMS norm (section 7.1: the gate comes first) and project back."""
        y = self.norm(y.flatten(-2) * F.silu(z.to(y.dtype)))
        out: Tensor = self.out_proj(y.to(z.dtype))
        return out
