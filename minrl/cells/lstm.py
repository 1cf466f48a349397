"""LSTM (Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000) in torch's convention, with resets.

Shapes: B batch, T time, D width, H inner width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.cells.base import Cell, hold_bias, inner_width, state_dtype
from minrl.cells.gru import pieces_without_reset
from minrl.cells.nan_masks import contained
from minrl.kernels.guard import under_transform
from minrl.kernels.lstm import cpu

# Without a reset, torch's LSTM is 3 to 12 % faster for this many elements of h (B, T, H) in this many rows. Fewer do
# not fill its matmuls; with more, glibc maps its workspace anew at every call.
_MANY, _TOO_MANY, _ROWS = 1 << 17, 1 << 19, 8


class LSTM(Cell):
    """torch.nn.LSTM of one layer with an optional wider inner state and a projection back.

    The recurrence feeds rounding back into its gates and therefore runs in the precision of the weights, also
    under autocast. `lstm_layer` chooses how it runs.

    Args:
        width: D, of input and output.
        expand: H / D; a projection back to D follows where H is not D.
        hold: initial log-odds of keeping the state at a step, spread over H from the first to the second.
        bias: of the gates; without it `hold` has no effect.
        peepholes: gates that also read c: input and forget gate c_{t-1}, output gate c_t, unit by unit
            (Gers and Schmidhuber, 2000, "Recurrent nets that time and count"). No kernel computes them: `scan` is
            then a loop over time in torch operations.
    """

    reads_back = True  # where the resets are
    # Peepholes have an element for each unit and gate, like biases.
    undecayed = frozenset({"peepholes"})

    def __init__(
        self,
        width: int,
        *,
        expand: float = 1.0,
        hold: tuple[float, float] = (1.0, 2.5),
        bias: bool = True,
        peepholes: bool = False,
    ) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        self.width = width
        self.state_size = 2 * inner
        # input gate | forget gate | candidate | output gate
        self.lstm = nn.LSTM(width, inner, bias=bias, batch_first=True)
        self.down = nn.Identity() if inner == width else nn.Linear(inner, width, bias=False)
        # Of input, forget and output gate, drawn like the other weights.
        bound = inner**-0.5
        self.peepholes = nn.Parameter(torch.empty(3, inner).uniform_(-bound, bound)) if peepholes else None
        if bias:
            _, _, input_bias, hidden_bias = self.lstm.all_weights[0]
            with torch.no_grad():
                # The two biases of a gate add up (forget bias: Jozefowicz et al., 2015, section 2.2).
                input_bias[inner : 2 * inner] = hold_bias(inner, hold)
                hidden_bias[inner : 2 * inner] = 0.0

    @contained
    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; the state is h | c (B, 2H)."""
        with torch.autocast(x.device.type, enabled=False):
            weights = self.lstm.all_weights[0]
            x = x.to(weights[0].dtype)
            state = None if state is None else state.to(x.dtype)
            if self.peepholes is None:
                hidden, last = lstm_layer(x, weights, state, reset)
            else:
                hidden, last = peephole_layer(x, weights, self.peepholes, state, reset)
        return self.down(hidden), last.to(state_dtype(last))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        with torch.autocast(x.device.type, enabled=False):
            weights = self.lstm.all_weights[0]
            x = x.to(weights[0].dtype)
            h, c = state.to(x.dtype).chunk(2, dim=-1)
            if self.peepholes is None:
                h, c = torch.lstm_cell(x, (h, c), *weights)
            else:
                h, c = _peephole_step(F.linear(x, weights[0], _bias(weights)), h, c, weights[1], self.peepholes)
        return self.down(h), torch.cat([h, c], dim=-1).to(state_dtype(h))


def lstm_layer(
    x: Tensor, weights: Sequence[Tensor], state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run a layer of `torch.nn.LSTM` with resets inside.

    On a CPU one compiled loop runs it. Elsewhere, and without numba, one call of torch's LSTM runs each piece of time
    in which no row resets, so that short episodes that start at different steps cost many calls.

    Args:
        x: (B, T, D) in the precision of the weights.
        weights: W_ih (4H, D), W_hh (4H, H) and, if there are biases, b_ih and b_hh (4H,): as in `all_weights`.
        state: (B, 2H) the initial h | c; None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        h (B, T, H) and the last state h | c (B, 2H).
    """
    width = weights[1].shape[1]
    if under_transform():  # torch's LSTM has no rule for vmap, nor for resets under it
        return cpu.layer_in_torch(x, state, reset, *weights)
    if cpu.takes(x) and not (_fills_torch(x.shape[0], x.shape[1], width) and _no_reset_inside(reset)):
        return cpu.lstm_layer(x, weights, state, reset)
    memory = x.new_zeros(x.shape[0], 2 * width) if state is None else state
    h, c = memory.chunk(2, dim=-1)
    outputs, parts = [], list(weights)
    for first, end in pieces_without_reset(reset, x.shape[1]):
        if reset is not None:
            opens = reset[:, first, None]
            h, c = h.masked_fill(opens, 0.0), c.masked_fill(opens, 0.0)
        start = h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous()
        # One layer, no dropout, for training or not, one direction, batch first. cuDNN's backward
        # pass requires training mode.
        options = (1, 0.0, torch.is_grad_enabled(), False, True)
        output, h, c = torch.lstm(x[:, first:end], start, parts, len(parts) == 4, *options)
        outputs.append(output)
        h, c = h[0], c[0]
    hidden = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return hidden, torch.cat([h, c], dim=-1)


def peephole_layer(
    x: Tensor, weights: Sequence[Tensor], peepholes: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `lstm_layer` with weights (3, H) from c to input, forget and output gate, as a loop over time."""
    gates = F.linear(x, weights[0], _bias(weights))
    memory = x.new_zeros(x.shape[0], 2 * weights[1].shape[1]) if state is None else state
    h, c = memory.chunk(2, dim=-1)
    outputs = []
    for t in range(x.shape[1]):
        if reset is not None:
            h, c = h.masked_fill(reset[:, t, None], 0.0), c.masked_fill(reset[:, t, None], 0.0)
        h, c = _peephole_step(gates[:, t], h, c, weights[1], peepholes)
        outputs.append(h)
    return torch.stack(outputs, dim=1), torch.cat([h, c], dim=-1)


def _peephole_step(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, peepholes: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one step from the input's part of the gates (B, 4H) and h, c (B, H) to the next h, c."""
    i, f, g, o = torch.addmm(gates, h, weight.T).chunk(4, dim=-1)
    of_input, of_forget, of_output = peepholes
    c = torch.sigmoid(f + of_forget * c) * c + torch.sigmoid(i + of_input * c) * torch.tanh(g)
    return torch.sigmoid(o + of_output * c) * torch.tanh(c), c


def _bias(weights: Sequence[Tensor]) -> Tensor | None:
    return weights[2] + weights[3] if len(weights) == 4 else None


def _fills_torch(batch: int, steps: int, width: int) -> bool:
    return batch >= _ROWS and _MANY <= batch * steps * width <= _TOO_MANY


def _no_reset_inside(reset: Tensor | None) -> bool:
    return reset is None or not bool(reset[:, 1:].any())
