"""sLSTM, the scalar memory of xLSTM (Beck et al., 2024, arXiv 2405.04517, section 2.2).

Shapes: B batch, T time, D width, H heads of E = D / H units.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells import convolution
from minrl.cells.base import Cell, state_dtype
from minrl.cells.headwise import HeadwiseLinear, headwise_norm
from minrl.cells.nan_masks import contained
from minrl.kernels.recurrence import takes
from minrl.kernels.slstm import cpu, reference


class SLSTM(Cell):
    """Exponential gates, a normaliser and memory mixing: a head's gates read its output of the step before.

    Because of that mixing there is no parallel form: `scan` is a loop over time, compiled on a CPU, elsewhere in torch
    operations. It feeds rounding back into its gates and therefore runs in the precision of the weights, also under
    autocast. Input and forget gate read the convolution of the input, as in appendix A.4; its MLP is left to the block
    around the cell.

    Args:
        width: D, of input and output.
        heads: H; it must divide `width`. None is the published 4, or fewer where a head would have less than 8 units:
            the norm of each head's output needs some.
        conv_width: taps of the convolution, at least 2.
    """

    # The published code decays parameters with "weight" in their name (xlstm/utils.py): neither of these.
    undecayed = frozenset({"recurrent_kernel", "bias"})

    def __init__(self, width: int, *, heads: int | None = None, conv_width: int = 4) -> None:
        super().__init__()
        if heads is None:
            heads = next(count for count in (4, 2, 1) if count == 1 or width % (8 * count) == 0)
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide the width, got heads={heads} and width={width}")
        size = width // heads
        self.width = width
        self.heads = heads
        self.conv = convolution.ShortConvolution(width, conv_width, compiled=True)
        std = math.sqrt(2 / (5 * width))
        self.igate = HeadwiseLinear(width, heads, std)
        self.fgate = HeadwiseLinear(width, heads, std)
        self.zgate = HeadwiseLinear(width, heads, std)
        self.ogate = HeadwiseLinear(width, heads, std)
        # Published initialisation of a first block: no mixing yet, forget gates from 5 down to -7 over a head's units.
        self.recurrent_kernel = nn.Parameter(torch.zeros(heads, size, 4, size))  # head | from unit | i, f, z, o | unit
        self.bias = nn.Parameter(torch.zeros(heads, 4, size))
        with torch.no_grad():
            self.bias[:, 1] = 5 - 12 * (torch.arange(size) / max(size - 1, 1)) ** 0.3
        self.group_norm = nn.Parameter(torch.zeros(width))  # scale - 1
        self.state_size = self.conv.state_size + 4 * width

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is the convolution's last inputs | h | c | n | m, initially zero."""
        if state is None:
            state = self.initial_state(x.shape[0])
        recent, memory = self._split(state)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.bias.dtype)
            mixed, recent = self.conv.scan(x, recent, reset)
            gates = self._gates(x, mixed)
            run = cpu.slstm_scan if takes(gates) else reference.slstm_scan
            h, memory = run(gates, self.recurrent_kernel.to(gates.dtype).flatten(2), memory.to(gates.dtype), reset)
            return self._out(h.unflatten(2, (self.heads, -1)), x), torch.cat([recent, memory], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        recent, memory = self._split(state)
        memory = memory.unflatten(1, (4, self.heads, -1)).permute(1, 2, 0, 3)  # h, c, n, m of (4, H, B, E)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.bias.dtype)
            mixed, recent = self.conv.step(x, recent)
            gates = self._gates(x, mixed).movedim(-2, 0)
            memory = reference.advance(gates, memory, self.recurrent_kernel.to(memory.dtype).flatten(2))
            joined = torch.cat([recent, memory.permute(2, 0, 1, 3).flatten(1)], dim=1)
            return self._out(memory[0].transpose(0, 1), x), joined

    def _gates(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Compute the input's part of i, f, z, o of each head, before their maps: (B, …, H, 4 * E)."""
        mixed = F.silu(mixed)
        parts = (self.igate(mixed), self.fgate(mixed), self.zgate(x), self.ogate(x))
        gates = torch.stack([part.unflatten(-1, (self.heads, -1)) for part in parts], dim=-2)  # (B, …, H, 4, E)
        gates = gates.to(state_dtype(self.bias)) + self.bias
        return gates.flatten(-2)

    def _out(self, h: Tensor, x: Tensor) -> Tensor:
        return headwise_norm(h, self.group_norm).to(x.dtype)

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the convolution's last inputs, and h | c | n | m (B, 4D)."""
        recent, memory = state.tensor_split([self.conv.state_size], dim=1)
        return recent, memory
