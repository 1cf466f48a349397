"""LSTM (Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000) in torch's convention, with resets.

Shapes: B batch, T time, D width, H inner width.
"""

import torch
from torch import Tensor, nn

from minrl.cells.base import Cell, hold_bias, inner_width, state_dtype
from minrl.cells.gru import pieces_without_reset


class LSTM(Cell):
    """torch.nn.LSTM of one layer with an optional wider inner state and a projection back.

    `torch.nn.LSTM` does the work, one call for each piece of time in which no row resets, so short episodes
    that start at different steps cost many calls. The recurrence feeds rounding back into its gates and
    therefore runs in the precision of the weights, also under autocast.

    Args:
        width: D, of input and output.
        expand: H / D; a projection back to D follows where H is not D.
        hold: the first and last log-odds of keeping the memory at the start of training, spread over H.
        bias: whether the gates have one; without it `hold` has no effect.
    """

    reads_back = True  # where the resets are

    def __init__(
        self,
        width: int,
        *,
        expand: float = 1.0,
        hold: tuple[float, float] = (1.0, 2.5),
        bias: bool = True,
    ) -> None:
        super().__init__()
        inner = inner_width(width, expand)
        self.width = width
        self.state_size = 2 * inner
        # input gate | forget gate | candidate | output gate
        self.lstm = nn.LSTM(width, inner, bias=bias, batch_first=True)
        self.down = nn.Identity() if inner == width else nn.Linear(inner, width, bias=False)
        if bias:
            _, _, input_bias, hidden_bias = self.lstm.all_weights[0]
            with torch.no_grad():
                # The two biases of a gate add up (forget bias: Jozefowicz et al., 2015, section 2.2).
                input_bias[inner : 2 * inner] = hold_bias(inner, hold)
                hidden_bias[inner : 2 * inner] = 0.0

    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Cell.scan`; the state is h | c (B, 2H)."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.lstm.all_weights[0][0].dtype)
            memory = x.new_zeros(x.shape[0], self.state_size) if state is None else state.to(x.dtype)
            h, c = memory.chunk(2, dim=-1)
            outputs = []
            for first, end in pieces_without_reset(reset, x.shape[1]):
                if reset is not None:
                    opens = reset[:, first, None]
                    h, c = h.masked_fill(opens, 0.0), c.masked_fill(opens, 0.0)
                start = (h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous())
                output, (h, c) = self.lstm(x[:, first:end], start)
                outputs.append(output)
                h, c = h[0], c[0]
        hidden = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return self.down(hidden), torch.cat([h, c], dim=-1).to(state_dtype(h))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As `Cell.step`."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.lstm.all_weights[0][0].dtype)
            h, c = torch.lstm_cell(x, state.to(x.dtype).chunk(2, dim=-1), *self.lstm.all_weights[0])
        return self.down(h), torch.cat([h, c], dim=-1).to(state_dtype(h))
