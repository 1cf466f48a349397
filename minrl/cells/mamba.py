"""Mamba's selective state space layer, S6 (arXiv 2312.00752, section 3.4 and algorithm 2).

Shapes: B batch, T time, D width, H inner width, N states of a channel.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells import convolution
from minrl.cells.base import Cell, inner_width, state_dtype
from minrl.cells.nan_masks import contained
from minrl.cells.recompute import recomputed
from minrl.kernels.recurrence import takes
from minrl.kernels.selective.cpu import selective_scan
from minrl.scan import linear_scan

# Steps whose (B, T, H * N) tensors are alive at once. Longer sequences run piece by piece and are recomputed
# in the backward pass, as the published kernel does within a chunk.
_PIECE = 32


class Mamba(Cell):
    """Block of figure 3: projection to x | z, short convolution, selective scan, gate, projection back.

    Names and initialisation of weights are the published ones; the convolution's weight lies as (taps, H).

    Args:
        width: D, of input and output.
        expand: H / D.
        state_width: N, the published `d_state`.
        conv_width: taps of the convolution, at least 2.
        dt_rank: rank of the projection that makes the step sizes; None is D / 16, rounded up.
    """

    # As in the published code, whose `A_log` and `D` carry `_no_weight_decay` (mamba_ssm/modules/mamba_simple.py).
    undecayed = frozenset({"A_log", "D"})

    def __init__(
        self,
        width: int,
        *,
        expand: float = 2.0,
        state_width: int = 16,
        conv_width: int = 4,
        dt_rank: int | None = None,
    ) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        rank = math.ceil(width / 16) if dt_rank is None else dt_rank
        if state_width < 1 or rank < 1:
            raise ValueError(f"state_width and dt_rank must be at least 1, got {state_width} and {rank}")
        self.width = width
        self.inner = inner
        self.sizes = (rank, state_width, state_width)  # step size | B | C
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)  # x | z
        self.conv = convolution.ShortConvolution(inner, conv_width, compiled=True)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        # A = -exp(A_log) starts at -1 … -N in each channel (section 3.6, S4D-Real).
        self.A_log = nn.Parameter(torch.arange(1.0, state_width + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.state_size = self.conv.state_size + inner * state_width
        with torch.no_grad():
            # Step sizes start log-uniform in [0.001, 0.1] (section 3.6); log(expm1) undoes the softplus.
            step = torch.empty(inner).uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
            self.dt_proj.weight.uniform_(-(rank**-0.5), rank**-0.5)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is the convolution's last inputs | h (B, H * N)."""
        if state is None:
            state = self.initial_state(x.shape[0])
        recent, h = state.tensor_split([self.conv.state_size], dim=1)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, recent = self.conv.scan(u, recent, reset)
        u = F.silu(u)
        y, h = self._selective_scan(*self._selection(u), h, reset)
        return self._out(y, u, z), torch.cat([recent, h], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        recent, h = state.tensor_split([self.conv.state_size], dim=1)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, recent = self.conv.step(u, recent)
        u = F.silu(u)
        dt, drive, b, c = self._selection(u)
        decay = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.A_log.to(dt.dtype)))  # (B, H, N)
        memory = torch.addcmul(drive.unsqueeze(-1) * b.unsqueeze(-2), decay, h.view_as(decay))
        y = torch.linalg.vecdot(memory, c.unsqueeze(-2))
        return self._out(y, u, z), torch.cat([recent, memory.flatten(1)], dim=1)

    def _selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return step size (…, H), step size times input (…, H), B (…, N), C (…, N) in the state's precision."""
        dt, b, c = self.x_proj(u).split(self.sizes, dim=-1)
        precision = state_dtype(self.A_log)
        dt = F.softplus(self.dt_proj(dt).to(precision))
        return dt, dt * u.to(precision), b.to(precision), c.to(precision)

    def _selective_scan(
        self, dt: Tensor, drive: Tensor, b: Tensor, c: Tensor, h: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t, y_t = C_t h_t: y (B, T, H) and the last h (B, H * N)."""
        a = -torch.exp(self.A_log.to(dt.dtype))
        if takes(dt):
            y, last = selective_scan(dt, drive, b, c, a, h.to(dt.dtype), reset)
            return y, last
        steps = dt.shape[1]
        if steps <= _PIECE:
            return _selective_piece(a, dt, drive, b, c, h, reset)
        outputs = []
        for first in range(0, steps, _PIECE):
            piece = slice(first, first + _PIECE)
            now = None if reset is None else reset[:, piece]
            y, h = recomputed(_selective_piece, a, dt[:, piece], drive[:, piece], b[:, piece], c[:, piece], h, now)
            outputs.append(y)
        return torch.cat(outputs, dim=1), h

    def _out(self, y: Tensor, u: Tensor, z: Tensor) -> Tensor:
        y = torch.addcmul(y, u.to(y.dtype), self.D.to(y.dtype))
        out: Tensor = self.out_proj(y.to(z.dtype) * F.silu(z))
        return out


def _selective_piece(
    a: Tensor, dt: Tensor, drive: Tensor, b: Tensor, c: Tensor, h: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute the selective scan of one piece of time, through the recurrence over (B, T, H * N)."""
    decay = torch.exp(dt.unsqueeze(-1) * a)  # (B, T, H, N)
    insert = drive.unsqueeze(-1) * b.unsqueeze(-2)
    hidden, last = linear_scan(decay.flatten(2), insert.flatten(2), h, reset)
    y = torch.matmul(hidden.view_as(decay), c.unsqueeze(-1)).squeeze(-1)
    return y, last
