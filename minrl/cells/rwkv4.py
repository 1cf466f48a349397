"""RWKV-4's time mixing (Peng et al., 2023, arXiv 2305.13048, section 3.1): attention whose weights decay per channel.

Shapes: B batch, T time, D width, I inner width.
"""

import math

import torch
from torch import Tensor, nn

from minrl.cells.base import Cell, inner_width, orthogonal, state_dtype
from minrl.cells.nan_masks import contained
from minrl.cells.running_max import EMPTY, lagged, running_max
from minrl.scan import linear_scan


class RWKV4(Cell):
    """Token shift, then WKV: means of values weighted by exp(k), decaying by w per step, with a bonus u for the latest.

    Time mixing alone: the published layer's other half, channel mixing (section 3.1.3), is not in it; the MLP of
    `minrl.backbone.Block`, without token shift and receptance, stands in its place.

    Names of weights are the published ones. Initialisation is that of the first layer (appendix E), except for the
    linear maps: those start orthogonal, as the published zeros block the gradient to lower layers at first.

    Args:
        width: D, of input and output.
        expand: I / D.
    """

    def __init__(self, width: int, *, expand: float = 1.0) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        self.width = width
        self.inner = inner
        self.state_size = width + 3 * inner
        place = torch.arange(width) / width
        self.time_mix_key = nn.Parameter(place.clone())
        self.time_mix_value = nn.Parameter(place.clone())
        self.time_mix_receptance = nn.Parameter(place.sqrt())
        channel = torch.arange(inner)
        self.time_decay = nn.Parameter(-5 + 8 * (channel / max(inner - 1, 1)) ** 0.7)  # log of w
        self.time_first = nn.Parameter(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))  # u
        self.key = orthogonal(width, inner)
        self.value = orthogonal(width, inner)
        self.receptance = orthogonal(width, inner)
        self.output = orthogonal(inner, width)

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is the last input | m | numerator | denominator, initially zero.

        Numerator and denominator are in units of exp(m), m the largest decayed key so far.
        """
        if state is None:
            state = self.initial_state(x.shape[0])
        previous, first, sums = self._split(state)
        receptance, key, value = self._mixed(x, lagged(x.to(state.dtype), previous, reset))
        decay = -torch.exp(self.time_decay.to(state.dtype))
        largest = running_max(key, decay, first, reset)
        before = lagged(largest, first, reset, EMPTY)
        kept, inserted = _weights(before + decay, key)
        drive = inserted.unsqueeze(-2) * value
        after, last = linear_scan(torch.cat([kept, kept], dim=-1), drive.flatten(2), sums.flatten(1), reset)
        found = lagged(after, sums.flatten(1), reset).view_as(value)
        y = self._out(receptance, key, value, before, found)
        return y, torch.cat([x[:, -1].to(state.dtype), largest[:, -1], last], dim=1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        previous, before, sums = self._split(state)
        receptance, key, value = self._mixed(x, previous)
        y = self._out(receptance, key, value, before, sums)
        decay = -torch.exp(self.time_decay.to(state.dtype))
        largest = torch.maximum(before + decay, key).detach()
        kept, inserted = _weights(before + decay, key)
        sums = kept.unsqueeze(-2) * sums + inserted.unsqueeze(-2) * value
        return y, torch.cat([x.to(state.dtype), largest, sums.flatten(1)], dim=1)

    def _mixed(self, x: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return receptance, key (…, I) and value, 1 (…, 2, I) of this input and the one before (section 3.1.1)."""
        previous = previous.to(x.dtype)
        mixes = (self.time_mix_receptance, self.time_mix_key, self.time_mix_value)
        r, k, v = (torch.lerp(previous, x, mix.to(x.dtype)) for mix in mixes)
        precision = state_dtype(self.time_decay)
        value = self.value(v).to(precision)
        value = torch.stack([value, torch.ones_like(value)], dim=-2)
        return torch.sigmoid(self.receptance(r)), self.key(k).to(precision), value

    def _out(self, receptance: Tensor, key: Tensor, value: Tensor, before: Tensor, sums: Tensor) -> Tensor:
        """Compute WKV (section 3.1.2), gated, from the sums (…, 2, I) of earlier steps in units of exp(`before`)."""
        bonus = self.time_first.to(key.dtype) + key
        past, present = _weights(before, bonus)
        numerator, denominator = (past.unsqueeze(-2) * sums + present.unsqueeze(-2) * value).unbind(-2)
        out: Tensor = self.output(receptance * (numerator / denominator).to(receptance.dtype))
        return out

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last input (B, D), m (B, I), far below any key where the memory is empty, and both sums (B, 2,
        I)."""
        previous, largest, sums = state.split([self.width, self.inner, 2 * self.inner], dim=1)
        sums = sums.unflatten(1, (2, self.inner))
        return previous, torch.where(sums[:, 1] > 0, largest, EMPTY), sums


def _weights(kept: Tensor, inserted: Tensor) -> tuple[Tensor, Tensor]:
    """Compute exp of both in units of the larger, whose weight is exactly 1 however m was rounded."""
    unit = torch.maximum(kept, inserted).detach()
    return torch.exp(kept - unit), torch.exp(inserted - unit)
