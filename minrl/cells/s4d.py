"""S4D, a diagonal state space model in each channel (Gu et al., arXiv 2206.11893, sections 3 and 4).

Shapes: B batch, T time, D width, N state width, M states of a channel, P parts of a number (2, for "real" 1).
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells import diagonal
from minrl.cells.base import Cell, state_dtype
from minrl.cells.nan_masks import contained
from minrl.cells.recompute import recomputed
from minrl.kernels.recurrence import takes
from minrl.kernels.s4d.cpu import s4d_scan

Initialization = Literal["lin", "inv", "real"]

# Steps whose (B, T, D * N) tensors are alive at once. Longer sequences run piece by piece and are recomputed in
# the backward pass.
_PIECE = 32


class S4D(Cell):
    """h' = A h + x, y = 2 Re(C h) + D x in each channel, then GELU and a gated linear layer that mixes channels.

    Discretised by a zero-order hold. Names and initialisation of weights are the published ones; the layer that
    mixes, a convolution of width 1 there, lies as a linear one. The published convolution over whole sequences
    cannot be reset: here the same model runs as its recurrence.

    Args:
        width: D, of input and output.
        state_width: N, real elements of a channel's state: N / 2 conjugate pairs, or N real states for "real".
        init: A at the start: "lin" -1/2 + i pi n, "inv" -1/2 + i N/pi (N/(2n+1) - 1), "real" -(n + 1) (section 4).
        dt_min, dt_max: the step sizes of the channels start log-uniform in between.
    """

    # As in the published code, which registers these with a weight decay of 0 (models/s4/s4d.py).
    undecayed = frozenset({"log_dt", "log_A_real", "A_imag"})

    def __init__(
        self,
        width: int,
        *,
        state_width: int = 64,
        init: Initialization = "lin",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        if init not in get_args(Initialization):
            raise ValueError(f"init must be one of {', '.join(get_args(Initialization))}, got {init!r}")
        is_real = init == "real"
        if state_width < 1 or (state_width % 2 and not is_real):
            raise ValueError(f"state_width must be at least 1, and even for init={init!r}, got {state_width}")
        self.width = width
        self.state_size = width * state_width
        states = state_width if is_real else state_width // 2
        n = torch.arange(states, dtype=torch.float32)
        self.log_dt = nn.Parameter(diagonal.log_uniform(width, dt_min, dt_max))
        self.log_A_real = nn.Parameter(
            (torch.log(n + 1) if is_real else torch.full_like(n, math.log(0.5))).repeat(width, 1)
        )
        self.A_imag = None if is_real else nn.Parameter(_imaginary(init, state_width, n).repeat(width, 1))
        # Of a complex number of variance 1 each part has 1/2.
        self.C = nn.Parameter(torch.randn(width, states, 1) if is_real else torch.randn(width, states, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(width))
        self.output_linear = nn.Linear(width, 2 * width)  # value | gate

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is h (B, D * N), the parts of each number side by side."""
        decay, factor = self._discrete()
        c = self._read_out()
        u, steps = x.to(decay.dtype), x.shape[1]
        if takes(u):
            y, last = _compiled(decay, factor, c, u, state, reset)
            return self._out(y, x), last
        if steps <= _PIECE:
            y, last = _piece(decay, factor, c, u, state, reset)
            return self._out(y, x), last
        last = self.initial_state(x.shape[0]) if state is None else state
        outputs = []
        for first in range(0, steps, _PIECE):
            piece = slice(first, first + _PIECE)
            now = None if reset is None else reset[:, piece]
            y, last = recomputed(_piece, decay, factor, c, u[:, piece], last, now)
            outputs.append(y)
        return self._out(torch.cat(outputs, dim=1), x), last

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        decay, factor = self._discrete()
        drive = (factor * x.to(decay.dtype)[..., None, None]).flatten(1, 2)
        last = diagonal.step(decay, drive, state).flatten(1)
        y = (last.unflatten(1, (self.width, -1)) * self._read_out()).sum(-1)
        return self._out(y, x), last

    def _discrete(self) -> tuple[Tensor, Tensor]:
        """Compute A-bar (D * M, P) and B-bar (D, M, P), where B is 1."""
        precision = state_dtype(self.log_dt)
        imaginary = None if self.A_imag is None else self.A_imag.double()
        dt = torch.exp(self.log_dt.double()).unsqueeze(-1)
        decay, factor = diagonal.zero_order_hold(-torch.exp(self.log_A_real.double()), imaginary, dt)
        return decay.flatten(0, 1).to(precision), factor.to(precision)

    def _read_out(self) -> Tensor:
        """Return the weights of a channel's state parts in its output, (D, M * P)."""
        c = self.C.to(state_dtype(self.C))
        if self.A_imag is None:
            return c.flatten(1)
        real, imaginary = c.unbind(-1)
        return torch.stack([2 * real, -2 * imaginary], dim=-1).flatten(1)

    def _out(self, y: Tensor, x: Tensor) -> Tensor:
        y = F.gelu((y + self.D * x).to(x.dtype))
        return F.glu(self.output_linear(y), dim=-1)


def _imaginary(init: Initialization, state_width: int, n: Tensor) -> Tensor:
    """Return imaginary parts of A at the start, for the states n (section 4)."""
    if init == "lin":
        return math.pi * n
    return state_width / math.pi * (state_width / (2 * n + 1) - 1)


def _compiled(
    decay: Tensor, factor: Tensor, c: Tensor, u: Tensor, state: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute the recurrence over whole sequences, u (B, T, D) -> y (B, T, D) and the last state, in one loop."""
    state = None if state is None else state.to(u.dtype)
    decay, c = decay.view_as(factor), c.view_as(factor)
    if factor.shape[-1] == 2:
        y, last = s4d_scan(u, decay, factor, c, state, reset)
        return y, last
    # Real numbers are complex ones without imaginary part.
    decay, factor, c = (F.pad(part, (0, 1)) for part in (decay, factor, c))
    state = None if state is None else F.pad(state.unsqueeze(-1), (0, 1)).flatten(1)
    y, last = s4d_scan(u, decay, factor, c, state, reset)
    return y, last[:, ::2]


def _piece(
    decay: Tensor, factor: Tensor, c: Tensor, u: Tensor, state: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute the recurrence of one piece of time, u (B, T, D) -> y (B, T, D) and the last state."""
    drive = (factor * u[..., None, None]).flatten(2, 3)  # (B, T, D * M, P)
    h, last = diagonal.scan(decay, drive, state, reset)
    with torch.autocast(u.device.type, enabled=False):
        y = torch.einsum("btdm,dm->btd", h.flatten(2).unflatten(2, c.shape), c)
    return y, last
