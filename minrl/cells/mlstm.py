"""mLSTM, the matrix memory of xLSTM (Beck et al., 2024, arXiv 2405.04517, section 2.3).

Shapes: B batch, T time, D width, I inner width, H heads of E = I / H features.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells import convolution
from minrl.cells.base import Cell, inner_width, state_dtype
from minrl.cells.headwise import HeadwiseLinear, composed
from minrl.cells.matrix_memory import Memory, matrix_memory, matrix_step
from minrl.cells.nan_masks import contained
from minrl.kernels import matmul
from minrl.kernels.gated_norm import reference
from minrl.kernels.gated_norm.cpu import gated_norm
from minrl.kernels.recurrence import takes


class MLSTM(Cell):
    """Block of appendix A.4: up projection, convolution, matrix memory, output gate, down projection.

    Names and initialisation of weights are the published ones, those of the memory's gates and norm without their
    prefix; the convolution's weight lies as (taps, I).

    Args:
        width: D, of input and output.
        expand: I / D, the published `proj_factor`.
        heads: H; it must divide I.
        block_width: features that a block of the query, key and value maps mixes; it must divide I.
        conv_width: taps of the convolution, at least 2.
    """

    def __init__(
        self, width: int, *, expand: float = 2.0, heads: int = 4, block_width: int = 4, conv_width: int = 4
    ) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        if heads < 1 or inner % heads or block_width < 1 or inner % block_width:
            raise ValueError(
                f"heads and block_width must divide expand * width = {inner}, "
                f"got heads={heads} and block_width={block_width}"
            )
        self.width = width
        self.inner = inner
        self.heads = heads
        self.scale = (inner // heads) ** -0.5  # of keys
        self.proj_up = nn.Linear(width, 2 * inner, bias=False)  # memory | gate
        self.conv = convolution.ShortConvolution(inner, conv_width, compiled=True)
        # Appendix: normal of variance 2 / 5D ("small init"), with the outer width D for the inner maps too.
        std = math.sqrt(2 / (5 * width))
        self.q_proj = HeadwiseLinear(inner, inner // block_width, std)
        self.k_proj = HeadwiseLinear(inner, inner // block_width, std)
        self.v_proj = HeadwiseLinear(inner, inner // block_width, std)
        self.igate = nn.Linear(3 * inner, heads)
        self.fgate = nn.Linear(3 * inner, heads)
        self.outnorm = nn.Parameter(torch.zeros(inner))  # scale - 1
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, width, bias=False)
        self.state_size = self.conv.state_size + (inner // heads) * (inner + heads) + heads
        nn.init.normal_(self.proj_up.weight, std=std)
        nn.init.normal_(self.proj_down.weight, std=2 / math.sqrt(width))
        nn.init.zeros_(self.igate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        nn.init.zeros_(self.fgate.weight)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(3.0, 6.0, heads))

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is the convolution's last inputs | m (B, H) | C, n of each head."""
        if state is None:
            state = self.initial_state(x.shape[0])
        recent, memory = self._split(state)
        content, gate = matmul.halves(self.proj_up, x)
        mixed, recent = self.conv.scan(content, recent, reset)
        mixed = F.silu(mixed)
        parts = self._parts(mixed, content)
        with torch.autocast(x.device.type, enabled=False):
            y, memory, unit = matrix_memory(*parts, memory, reset, scale=self.scale)
        return self._out(y, unit, mixed, gate), self._joined(recent, memory)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        recent, memory = self._split(state)
        content, gate = self.proj_up(x).chunk(2, dim=-1)
        mixed, recent = self.conv.step(content, recent)
        mixed = F.silu(mixed)
        parts = self._parts(mixed, content)
        with torch.autocast(x.device.type, enabled=False):
            y, memory = matrix_step(*parts, memory, scale=self.scale)
        return self._out(y, memory.unit, mixed, gate), self._joined(recent, memory)

    def _parts(self, mixed: Tensor, content: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return query, key (…, H, E), value | 1 (…, H, E + 1), log forget and log input gate (…, H), equations 20 to
        26."""
        precision = state_dtype(self.outnorm)
        query, key, value = self.q_proj(mixed), self.k_proj(mixed), self.v_proj(content)
        log_input, forget = (gate.to(precision) for gate in self._gates(mixed, content, query, key, value))
        query, key, value = (part.to(precision).unflatten(-1, (self.heads, -1)) for part in (query, key, value))
        value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
        return query, key, value, F.logsigmoid(forget), log_input

    def _gates(
        self, mixed: Tensor, content: Tensor, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return input and forget gate (…, H) before their maps, each of query | key | value."""
        maps = self.q_proj, self.k_proj, self.v_proj
        if not takes(query) or any(type(module) is not HeadwiseLinear or module._forward_hooks for module in maps):
            gates = torch.cat([query, key, value], dim=-1)
            return self.igate(gates), self.fgate(gates)
        # Both gates at once, of what the maps read: a narrow product costs a pass over its input, three that join
        # query, key and value cost three, and three more in the backward pass for their sums.
        weight = torch.cat([self.igate.weight, self.fgate.weight])
        of_query, of_key, of_value = map(composed, weight.chunk(3, dim=1), maps)
        bias = torch.cat([self.igate.bias, self.fgate.bias])
        both = matmul.narrow(mixed, of_query + of_key, bias) + matmul.narrow(content, of_value)
        log_input, forget = both.chunk(2, dim=-1)
        return log_input, forget

    def _out(self, y: Tensor, unit: Tensor | None, mixed: Tensor, gate: Tensor) -> Tensor:
        """Compute from q C | q n (…, H, E + 1) in units of exp(m) (…, H): h = q C / max(|q n|, 1), equation 21."""
        assert unit is not None
        parts = y, unit, mixed, gate, self.outnorm, self.learnable_skip
        if y.dim() == 4 and takes(y) and len({part.dtype for part in parts}) == 1:
            (out,) = gated_norm(*parts)
        else:
            out = reference.gated_norm(*parts)
        return self.proj_down(out)  # type: ignore[no-any-return]

    def _split(self, state: Tensor) -> tuple[Tensor, Memory]:
        recent, unit, matrix = state.tensor_split([self.conv.state_size, self.conv.state_size + self.heads], dim=1)
        size = self.inner // self.heads
        return recent, Memory(matrix.unflatten(1, (self.heads, size, size + 1)), unit)

    def _joined(self, recent: Tensor, memory: Memory) -> Tensor:
        assert memory.unit is not None
        return torch.cat([recent, memory.unit, memory.matrix.flatten(1)], dim=1)
