"""LRU, a linear recurrence with a complex diagonal (Orvieto et al., arXiv 2303.06349, section 3 and appendix A).

Shapes: B batch, T time, D width, N complex states.
"""

import math

import torch
from torch import Tensor, nn

from minrl.cells import diagonal
from minrl.cells.base import Cell, state_dtype
from minrl.cells.nan_masks import contained


class LRU(Cell):
    """h_t = lambda * h_{t-1} + exp(gamma_log) * (B x_t), y_t = Re(C h_t) + D * x_t, lambda = exp(-nu + i theta).

    nu = exp(nu_log) and theta = exp(theta_log) keep the moduli below 1 (section 3.3). Names and initialisation of
    weights are those of the listing in appendix A. The layer has no non-linearity of its own: in the paper as in
    `minrl.backbone.Block` that is the part after it.

    Args:
        width: D, of input and output.
        state_width: N; None is D.
        r_min, r_max: the decays start uniform on the ring between these moduli (lemma 3.2).
        max_phase: the largest phase at the start.
    """

    # The recurrence and the scale of its input have no weight decay, as in S5's "standard" set-up.
    undecayed = frozenset({"nu_log", "theta_log", "gamma_log", "B_re", "B_im"})

    def __init__(
        self,
        width: int,
        *,
        state_width: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
    ) -> None:
        super().__init__()
        states = width if state_width is None else state_width
        if states < 1:
            raise ValueError(f"state_width must be at least 1, got {states}")
        if not 0 <= r_min < r_max <= 1 or max_phase <= 0:
            raise ValueError(f"need 0 <= r_min < r_max <= 1 and max_phase > 0, got {r_min}, {r_max} and {max_phase}")
        self.width = width
        self.state_size = 2 * states
        # In float64, as the moduli are near 1; the smallest float keeps logarithms finite.
        of_modulus, of_phase = (torch.rand(states, dtype=torch.float64).clamp(min=1e-9) for _ in range(2))
        nu = -0.5 * torch.log(of_modulus * (r_max**2 - r_min**2) + r_min**2)
        self.nu_log = nn.Parameter(nu.log().float())
        self.theta_log = nn.Parameter((max_phase * of_phase).log().float())
        # sqrt(1 - |lambda|^2): with white noise for inputs the states have the inputs' variance (section 3.4).
        self.gamma_log = nn.Parameter((0.5 * torch.log(-torch.expm1(-2 * nu))).float())
        self.B_re = nn.Parameter(torch.randn(states, width) / math.sqrt(2 * width))
        self.B_im = nn.Parameter(torch.randn(states, width) / math.sqrt(2 * width))
        self.C_re = nn.Parameter(torch.randn(width, states) / math.sqrt(states))
        self.C_im = nn.Parameter(torch.randn(width, states) / math.sqrt(states))
        self.D = nn.Parameter(torch.randn(width))

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is h (B, 2N), real and imaginary part of each number side by side."""
        h, last = diagonal.scan(self._decay(), self._drive(x), state, reset)
        return self._out(h, x), last

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        h = diagonal.step(self._decay(), self._drive(x), state)
        return self._out(h, x), h.flatten(1)

    def _decay(self) -> Tensor:
        """Compute lambda, (N, 2)."""
        nu, theta = torch.exp(self.nu_log.double()), torch.exp(self.theta_log.double())
        return diagonal.polar(torch.exp(-nu), theta).to(state_dtype(self.nu_log))

    def _drive(self, x: Tensor) -> Tensor:
        matrix = torch.stack([self.B_re, self.B_im], dim=-1) * torch.exp(self.gamma_log)[:, None, None]
        return diagonal.read_in(x, matrix, state_dtype(self.nu_log))

    def _out(self, h: Tensor, x: Tensor) -> Tensor:
        y = diagonal.read_out(h, torch.stack([self.C_re, self.C_im], dim=-1))
        return y + self.D * x
