"""RWKV-6 "Finch" time mixing (Peng et al., 2024, arXiv 2404.05892, section 4.2): a matrix state, data-dependent decays.

Shapes: B batch, T time, D width, H heads of E = D / H features; C steps of a chunk.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.base import Cell, orthogonal, state_dtype
from minrl.cells.nan_masks import contained, filled, finite_gradients, not_finite, reached
from minrl.cells.recompute import recomputed
from minrl.cells.running_max import lagged
from minrl.kernels.matrix.cpu import matrix_scan_before
from minrl.kernels.recurrence import takes

# Each pair of a chunk's steps has its own decay in each feature: (B, H, C, C, E). Chunks are recomputed in the
# backward pass, so that one at a time is alive.
_CHUNK = 16


class RWKV6(Cell):
    """Token shift that depends on the data, then S_t = diag(w_t) S_{t-1} + k_t v_t^T, read before the decay.

    Time mixing alone: the published layer's other half, channel mixing, is not in it; the MLP of
    `minrl.backbone.Block`, without token shift and receptance, stands in its place.

    Names of weights are the published ones. Initialisation is that of the first layer, except for the linear maps,
    which start orthogonal, and the first low-rank maps, which start near zero: the published zeros of both block the
    gradient to other weights at first.

    Args:
        width: D, of input and output.
        head_width: E; it must divide `width`. None is the largest divisor of `width` that divides the published 64.
        mix_rank: rank of the five maps that make the token shift depend on the data.
        decay_rank: rank of the map that makes the decays.
    """

    # The published code decays matrices with "weight" in their name (RWKV-v5/src/model.py): none of the cell's own.
    undecayed = frozenset({"time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2", "time_faaaa"})

    def __init__(self, width: int, *, head_width: int | None = None, mix_rank: int = 32, decay_rank: int = 64) -> None:
        super().__init__()
        size = math.gcd(64, width) if head_width is None else head_width
        if size < 1 or width % size:
            raise ValueError(f"head_width must divide the width, got head_width={size} and width={width}")
        if mix_rank < 1 or decay_rank < 1:
            raise ValueError(f"mix_rank and decay_rank must be at least 1, got {mix_rank} and {decay_rank}")
        self.width = width
        self.heads = width // size
        self.state_size = width + width * size
        channel = torch.arange(width)
        place, ratio = channel / width, channel / max(width - 1, 1)
        self.time_maa_x = nn.Parameter(1 - place)
        self.time_maa_w = nn.Parameter(1 - place)
        self.time_maa_k = nn.Parameter(1 - place)
        self.time_maa_v = nn.Parameter(1 - place)
        self.time_maa_r = nn.Parameter(1 - place.sqrt())
        self.time_maa_g = nn.Parameter(1 - place.sqrt())
        self.time_maa_w1 = nn.Parameter(torch.empty(width, 5 * mix_rank).uniform_(-1e-4, 1e-4))
        self.time_maa_w2 = nn.Parameter(torch.empty(5, mix_rank, width).uniform_(-0.01, 0.01))
        self.time_decay = nn.Parameter(-6 + 5 * ratio**0.7)
        self.time_decay_w1 = nn.Parameter(torch.empty(width, decay_rank).uniform_(-1e-4, 1e-4))
        self.time_decay_w2 = nn.Parameter(torch.empty(decay_rank, width).uniform_(-0.01, 0.01))
        self.time_faaaa = nn.Parameter((0.1 * ((channel + 1) % 3 - 1)).view(self.heads, size))  # the bonus u
        self.receptance = orthogonal(width, width)
        self.key = orthogonal(width, width)
        self.value = orthogonal(width, width)
        self.gate = orthogonal(width, width)
        self.output = orthogonal(width, width)
        self.ln_x = nn.GroupNorm(self.heads, width, eps=64e-5)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is the last input | S (B, H * E * E)."""
        if state is None:
            state = self.initial_state(x.shape[0])
        previous, matrix = self._split(state)
        query, *parts, gate = self._mixed(x, lagged(x.to(state.dtype), previous, reset))
        y, matrix = self._memory(query, parts, matrix, reset)
        return self._out(y, gate), torch.cat([x[:, -1].to(state.dtype), matrix.flatten(1)], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        previous, matrix = self._split(state)
        query, key, value, log_decay, gate = self._mixed(x, previous)
        inserted = key.unsqueeze(-1) * value.unsqueeze(-2)
        found = matrix + self.time_faaaa.to(state.dtype).unsqueeze(-1) * inserted
        y = (query.unsqueeze(-1) * found).sum(dim=-2)
        matrix = torch.exp(log_decay).unsqueeze(-1) * matrix + inserted
        return self._out(y, gate), torch.cat([x.to(state.dtype), matrix.flatten(1)], dim=1)

    def _memory(
        self, query: Tensor, parts: list[Tensor], matrix: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute y (B, T, H, E) and the last S from the S that enters: one compiled loop on a CPU, elsewhere chunk by
        chunk."""
        if takes(query):
            key, value, log_decay = parts
            found, last = matrix_scan_before(query, key, value, log_decay.exp(), matrix.flatten(1), reset)
            bonus = (query * key * self.time_faaaa.to(matrix.dtype)).sum(-1, keepdim=True)
            return found + bonus * value, last.view_as(matrix)
        faulty, lost = not_finite(2, *parts), not_finite(1, matrix)
        spoiled, unread = reached(faulty, lost, reset), not_finite(2, query)
        parts = [filled(query, unread), *(filled(part, faulty) for part in parts)]
        with torch.autocast(query.device.type, enabled=False):
            y, matrix = self._chunked(parts, filled(matrix, lost), reset)
        if reset is not None:
            y = finite_gradients(y, parts[0])
            matrix = finite_gradients(matrix, parts[2][:, -1].unsqueeze(-2))
        return filled(y, spoiled | unread, torch.nan), filled(matrix, spoiled[:, -1], torch.nan)

    def _chunked(self, parts: list[Tensor], matrix: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute y (B, T, H, E) and the last S, chunk by chunk, from finite parts (B, T, H, E)."""
        parts = [part.transpose(1, 2) for part in parts]
        bonus = self.time_faaaa.to(matrix.dtype).unsqueeze(1)
        outputs = []
        for first in range(0, parts[0].shape[2], _CHUNK):
            piece = slice(first, first + _CHUNK)
            now = None if reset is None else reset[:, piece]
            y, matrix = recomputed(_chunk, *(part[:, :, piece] for part in parts), bonus, matrix, now)
            outputs.append(y)
        return torch.cat(outputs, dim=2).transpose(1, 2), matrix

    def _mixed(self, x: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return receptance, key, value, log decay (…, H, E) and gate (…, D) (section 4.2.1)."""
        change = previous.to(x.dtype) - x
        mix = torch.tanh((x + change * self.time_maa_x) @ self.time_maa_w1).unflatten(-1, (5, -1))
        mix = torch.einsum("...ir,ird->i...d", mix, self.time_maa_w2)
        still = (self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g)
        w, k, v, r, g = (x + change * (constant + moving) for constant, moving in zip(still, mix, strict=True))
        precision = state_dtype(self.time_decay)
        w = (torch.tanh(w @ self.time_decay_w1) @ self.time_decay_w2).to(precision) + self.time_decay
        parts = (self.receptance(r), self.key(k), self.value(v), -torch.exp(w))
        r, k, v, w = (part.to(precision).unflatten(-1, (self.heads, -1)) for part in parts)
        return r, k, v, w, F.silu(self.gate(g))

    def _out(self, y: Tensor, gate: Tensor) -> Tensor:
        """Apply the norm over each head of (…, H, E), the gate and the map out."""
        # As rows of heads: in its backward pass torch's group norm is several times as slow on a CPU.
        y = F.layer_norm(y, y.shape[-1:], eps=self.ln_x.eps).flatten(-2)
        y = torch.addcmul(self.ln_x.bias, y, self.ln_x.weight)
        out: Tensor = self.output(y.to(gate.dtype) * gate)
        return out

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        previous, matrix = state.tensor_split([self.width], dim=1)
        size = self.width // self.heads
        return previous, matrix.unflatten(1, (self.heads, size, size))


def _chunk(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, bonus: Tensor, matrix: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute y_t = q_t (S_{t-1} + diag(u) k_t v_t^T) for a chunk (B, H, C, E) from the S that enters it, and the
    last S.

    Log decays are summed pair by pair, so that none overflows or cancels another's digits.
    """
    size = query.shape[2]
    episode = query.new_zeros(query.shape[0], size, dtype=torch.int64) if reset is None else reset.cumsum(dim=1)
    # Row t reads the state before step t, the extra row the state after the last. Columns are its sources: the entering
    # state, then the steps.
    rows, columns = torch.cat([episode, episode[:, -1:]], dim=1), F.pad(episode, (1, 0))
    visible = (rows.unsqueeze(-1) == columns.unsqueeze(-2)).tril()[:, None, :, :, None]
    lag = F.pad(log_decay, (0, 0, 1, 0)).unsqueeze(3)  # (B, H, C + 1, 1, E)
    apart = torch.ones(size + 1, size + 1, dtype=torch.bool, device=query.device).tril(-1).unsqueeze(-1)
    sums = torch.where(apart, lag, 0.0).cumsum(dim=2)
    weight = sums.masked_fill(~visible, -torch.inf).exp()  # (B, H, C + 1, C + 1, E)
    before, after = weight[:, :, :-1], weight[:, :, -1]
    scores = ((before[..., 1:, :] * key.unsqueeze(2)) @ query.unsqueeze(-1)).squeeze(-1)
    y = scores @ value + (query * before[..., 0, :]) @ matrix + (query * bonus * key).sum(-1, keepdim=True) * value
    last = after[..., 0, :, None] * matrix + (after[..., 1:, :] * key).mT @ value
    return y, last
