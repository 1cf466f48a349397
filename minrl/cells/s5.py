"""S5, one state space model with many inputs and outputs (Smith et al., arXiv 2208.04933, section 3).

Shapes: B batch, T time, D width, N states, of which N / 2 complex ones are computed.
"""

import torch
from torch import Tensor, nn

from minrl.cells import diagonal
from minrl.cells.base import Cell, state_dtype
from minrl.cells.nan_masks import contained

# The standard deviation of a standard normal truncated at two, by which the published initialiser divides.
_CUT_NORMAL = 0.8796256610342398


class S5(Cell):
    """h' = Lambda h + B x, y = 2 Re(C h) + D x over N / 2 conjugate pairs, discretised by a zero-order hold.

    Names and initialisation of weights are the published ones (section 3, appendix B.1): Lambda, and the bases of
    B and C, are those of the normal part of the HiPPO-LegS matrix, repeated in blocks; each state has its own step
    size. The non-linearity that follows a layer in the paper is the MLP of `minrl.backbone.Block`.

    Args:
        width: D, of input and output.
        state_width: N, even in each block; None is D, rounded up to that.
        blocks: how many HiPPO matrices lie on the diagonal at the start, the published J.
        dt_min, dt_max: the step sizes start log-uniform in between.
        clip_eigs: keep the real parts of Lambda at most -1e-4, so that no state grows without bound.
    """

    # The published "standard" set-up: B stays with the recurrence, without decay (s5/train_helpers.py).
    undecayed = frozenset({"B", "Lambda_re", "Lambda_im", "log_step"})

    def __init__(
        self,
        width: int,
        *,
        state_width: int | None = None,
        blocks: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        clip_eigs: bool = True,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {blocks}")
        states = -(-width // (2 * blocks)) * 2 * blocks if state_width is None else state_width
        if states < 1 or states % (2 * blocks):
            raise ValueError(f"state_width={states} must be a multiple of 2 * blocks = {2 * blocks}")
        self.width = width
        self.state_size = states
        self.clip_eigs = clip_eigs
        decays, basis = hippo_normal(states // blocks)
        basis = torch.block_diag(*[basis] * blocks)  # (N, N / 2)
        self.Lambda_re = nn.Parameter(decays.real.repeat(blocks).float())
        self.Lambda_im = nn.Parameter(decays.imag.repeat(blocks).float())
        matrix_in = basis.mH @ _cut_normal(states, width, fan_in=states).to(basis.dtype)
        matrix_out = torch.view_as_complex(_cut_normal(width, states, 2, fan_in=states)) @ basis
        self.B = nn.Parameter(torch.view_as_real(matrix_in.resolve_conj()).float())  # (N / 2, D, 2)
        self.C = nn.Parameter(torch.view_as_real(matrix_out).float())  # (D, N / 2, 2)
        self.D = nn.Parameter(torch.randn(width))
        self.log_step = nn.Parameter(diagonal.log_uniform(states // 2, dt_min, dt_max).unsqueeze(-1))

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is h (B, N), real and imaginary part of each number side by side."""
        decay, matrix = self._discrete()
        h, last = diagonal.scan(decay, diagonal.read_in(x, matrix, decay.dtype), state, reset)
        return self._out(h, x), last

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        decay, matrix = self._discrete()
        h = diagonal.step(decay, diagonal.read_in(x, matrix, decay.dtype), state)
        return self._out(h, x), h.flatten(1)

    def _discrete(self) -> tuple[Tensor, Tensor]:
        """Compute Lambda-bar (N / 2, 2) and B-bar (N / 2, D, 2)."""
        precision = state_dtype(self.B)
        real, imaginary, log_step = (part.double() for part in (self.Lambda_re, self.Lambda_im, self.log_step[:, 0]))
        if self.clip_eigs:
            real = real.clamp(max=-1e-4)
        decay, factor = diagonal.zero_order_hold(real, imaginary, torch.exp(log_step))
        return decay.to(precision), diagonal.multiply(factor.to(precision).unsqueeze(1), self.B.to(precision))

    def _out(self, h: Tensor, x: Tensor) -> Tensor:
        return diagonal.read_out(h, 2 * self.C) + self.D * x


def hippo_normal(size: int) -> tuple[Tensor, Tensor]:
    """Compute the diagonal form of the normal part of HiPPO-LegS (size, size), size even.

    Returns:
        Eigenvalues (size / 2) with negative imaginary parts, and eigenvectors (size, size / 2), in complex128.
    """
    n = torch.arange(size, dtype=torch.float64)
    root = torch.sqrt(n + 0.5)
    # HiPPO-LegS plus p p^T, p_n = sqrt(n + 1/2): -1/2 on the diagonal, skew-symmetric beside it.
    outer = torch.outer(root, root)
    skew = torch.triu(outer, 1) - torch.tril(outer, -1)
    imaginary, vectors = torch.linalg.eigh(skew * -1j)
    half = size // 2
    return torch.complex(torch.full((half,), -0.5, dtype=torch.float64), imaginary[:half]), vectors[:, :half]


def _cut_normal(*shape: int, fan_in: int) -> Tensor:
    """Draw from the normal distribution truncated at two deviations, scaled to variance 1 / fan_in, in float64."""
    deviation = fan_in**-0.5 / _CUT_NORMAL
    numbers = torch.empty(shape, dtype=torch.float64)
    return nn.init.trunc_normal_(numbers, std=deviation, a=-2 * deviation, b=2 * deviation)
