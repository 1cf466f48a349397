"""Causal self-attention over a sliding window, with keys and values as its state.

Shapes: B batch, T time, D width, W = context - 1 slots of the state, N blocks of Q queries and K keys.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.base import Cell, state_dtype
from minrl.cells.nan_masks import contained, finite_gradients
from minrl.kernels.attention import attention

Positions = Literal["rotary", "none"]

# Episodes are numbered from 0, that of the carried state. No query belongs to these two:
_EMPTY_SLOT, _PADDING = -1, -2


class Transformer(Cell):
    """Multi-head attention (arXiv 1706.03762, section 3.2) in which step t attends to steps t - context + 1 … t.

    A query attends to no key from before its episode's start. Time is cut into blocks of `context` queries that
    attend to their own and the preceding `context - 1` keys, so that cost grows with T * context.

    Args:
        width: D, of input and output.
        context: steps that a query attends to, its own included.
        heads: number of attention heads; it must divide `width`.
        positions: "rotary" rotates queries and keys by their distance (arXiv 2104.09864); "none" leaves the
            order of steps to the input, which may carry a learned time-step embedding.
        attention_dropout: of attention weights, in training.
    """

    def __init__(
        self,
        width: int,
        *,
        context: int = 20,
        heads: int = 4,
        positions: Positions = "rotary",
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(f"context must be at least 1 step, got {context}")
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide the width, got heads={heads} and width={width}")
        if positions not in get_args(Positions):
            raise ValueError(f"positions must be one of {', '.join(get_args(Positions))}, got {positions!r}")
        if positions == "rotary" and (width // heads) % 2:
            raise ValueError(f"rotary positions need an even width / heads, got {width} / {heads} = {width // heads}")
        self.width = width
        self.context = context
        self.heads = heads
        self.positions: Positions = positions
        self.attention_dropout = attention_dropout
        self.state_size = (context - 1) * (2 * width + 1)
        self.qkv = nn.Linear(width, 3 * width)  # query | key | value
        self.out = nn.Linear(width, width)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is W slots of key | value | 1 where filled, the latest last."""
        batch, steps, _ = x.shape
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        episode = torch.zeros(batch, steps, dtype=torch.int64, device=x.device)
        if reset is not None:
            episode = reset.cumsum(dim=1)
        if state is None and steps <= self.context:
            return self._scan_one_window(query, key, value, episode, reset)
        slots = torch.cat([self._slots(x, state), _filled(key, value)], dim=1)  # (B, W + T, 2D + 1)
        episode_of_slot = torch.cat([_episode_carried(slots[:, : self.context - 1]), episode], dim=1)

        past = self.context - 1
        block = min(self.context, steps)
        beyond = -steps % block
        query = F.pad(query, (0, 0, 0, beyond)).unflatten(1, (-1, block))  # (B, N, Q, D)
        pairs = F.pad(slots[..., :-1].to(query.dtype), (0, 0, 0, beyond))
        pairs = pairs.unfold(1, past + block, block).transpose(2, 3)  # (B, N, K, 2D)
        of_query = F.pad(episode, (0, beyond), value=_PADDING).unflatten(1, (-1, block))
        of_key = F.pad(episode_of_slot, (0, beyond), value=_PADDING)
        mask = of_query.unsqueeze(-1) == of_key.unfold(1, past + block, block).unsqueeze(-2)
        mask &= self._window(block, past, x.device)  # (B, N, Q, K)

        key, value = pairs.flatten(0, 1).chunk(2, dim=-1)
        y = self._attend(query.flatten(0, 1), key, value, mask.flatten(0, 1))  # (B * N, Q, D)
        if reset is not None:
            y = finite_gradients(y, query.flatten(0, 1))
        y = y.unflatten(0, (batch, -1)).flatten(1, 2)[:, :steps]
        left = episode_of_slot[:, steps:] != episode[:, -1:]
        return self.out(y), slots[:, steps:].masked_fill(left.unsqueeze(-1), 0.0).flatten(1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        query, key, value = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        slots = torch.cat([self._slots(x, state), _filled(key, value)], dim=1)  # (B, W + 1, 2D + 1)
        mask = (slots[..., -1] > 0).unsqueeze(1)  # (B, 1, W + 1)
        key, value = slots[..., :-1].to(query.dtype).chunk(2, dim=-1)
        y = self._attend(query, key, value, mask)
        return self.out(y.squeeze(1)), slots[:, 1:].flatten(1)

    def _scan_one_window(
        self, query: Tensor, key: Tensor, value: Tensor, episode: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Scan at most `context` steps from the zero state.

        Empty slots take no part: without them a training step of the Decision Transformer takes 7 % less.
        """
        steps, slots = query.shape[1], self.context - 1
        mask = (episode.unsqueeze(2) == episode.unsqueeze(1)) & self._window(steps, 0, query.device)  # (B, T, T)
        y = self._attend(query, key, value, mask)
        last = _filled(key, value)
        if reset is not None:
            y = finite_gradients(y, query)
            last = last.masked_fill((episode != episode[:, -1:]).unsqueeze(-1), 0.0)
        # For as many steps as `context` this pads by -1: it leaves out the first.
        return self.out(y), F.pad(last, (0, 0, slots - steps, 0)).flatten(1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attend with queries (B, Q, D) to keys and values (B, K, D) where `mask` (B, Q, K); the last are aligned."""
        split = (self.heads, self.width // self.heads)
        query, key, value = (part.unflatten(-1, split).transpose(1, 2) for part in (query, key, value))
        if self.positions == "rotary":
            query = _rotate(query, first=key.shape[2] - query.shape[2])
            key = _rotate(key, first=0)
        dropout = self.attention_dropout if self.training else 0.0
        y = attention(query, key, value, mask.unsqueeze(1), dropout)
        return y.transpose(1, 2).flatten(2)

    def _slots(self, x: Tensor, state: Tensor | None) -> Tensor:
        """Return the state as slots (B, W, 2D + 1)."""
        slots, columns = self.context - 1, 2 * self.width + 1
        if state is None:
            return x.new_zeros(x.shape[0], slots, columns, dtype=state_dtype(self.out.weight))
        return state.reshape(x.shape[0], slots, columns)

    def _window(self, block: int, past: int, device: torch.device) -> Tensor:
        """Return the mask (Q, K) of the K = past + Q keys within each query's window."""
        query = torch.arange(past, past + block, device=device)
        distance = query.unsqueeze(1) - torch.arange(past + block, device=device)
        return (distance >= 0) & (distance < self.context)


def _filled(key: Tensor, value: Tensor) -> Tensor:
    """Return slots (B, T, 2D + 1) of key | value | 1 in the precision of a state, with unrotated keys.

    A key is rotated by its position in the window when it is used: the position changes with every step.
    """
    pairs = torch.cat([key, value], dim=-1)
    return F.pad(pairs.to(state_dtype(pairs)), (0, 1), value=1.0)


def _episode_carried(slots: Tensor) -> Tensor:
    """Return the episode number (B, W) of each carried slot (B, W, 2D + 1)."""
    return torch.where(slots[..., -1] > 0, 0, _EMPTY_SLOT)


def _rotate(x: Tensor, *, first: int) -> Tensor:
    """Apply rotary positions: pairs of features turn by position times frequency (arXiv 2104.09864, equation 34).

    `x` is (B, heads, T, E), E even, and its first step has position `first`. Positions count from the first key of a
    block, so that angles stay small and exact however long the sequence is.
    """
    half = x.shape[-1] // 2
    precision = state_dtype(x)
    frequency = 10000.0 ** (-torch.arange(half, dtype=precision, device=x.device) / half)
    position = torch.arange(first, first + x.shape[2], dtype=precision, device=x.device)
    angle = position.unsqueeze(1) * frequency  # (T, E / 2)
    cos, sin = angle.cos(), angle.sin()
    left, right = x.to(precision).chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1).to(x.dtype)
