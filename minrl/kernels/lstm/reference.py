"""The LSTM's recurrence as a loop over its equations: the compiled kernel's reference and fallback.

Shapes: B batch, T time, H width.
"""

import torch
from torch import Tensor


def lstm_scan(
    gates: Tensor, weight: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the LSTM: c_t = f_t * c_{t-1} + i_t * g_t, h_t = o_t * tanh(c_t) (Hochreiter and Schmidhuber, 1997).

    As in torch.nn.LSTM, the gates i, f (Gers et al., 2000) and o are the sigmoid and the candidate g is the tanh of
    what the input gives plus W h_{t-1}. Where `reset[:, t]`, h_{t-1} and c_{t-1} are zero, whatever they were, and
    no gradient crosses.

    Args:
        gates: (B, T, 4H) what the input and the biases give, W_ih x + b_ih + b_hh, before the maps, in torch's
            order: input gate | forget gate | candidate | output gate.
        weight: (4H, H) W_hh, rows in the same order, in the precision of `gates`.
        state: (B, 2H) the initial h | c; None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        h (B, T, H) and the last state h | c (B, 2H).
    """
    h, c = (gates.new_zeros(gates.shape[0], 2 * weight.shape[1]) if state is None else state).chunk(2, dim=-1)
    outputs = []
    with torch.autocast(gates.device.type, enabled=False):
        for t in range(gates.shape[1]):
            if reset is not None:
                opens = reset[:, t, None]
                h, c = torch.where(opens, torch.zeros_like(h), h), torch.where(opens, torch.zeros_like(c), c)
            insert, forget, content, show = (gates[:, t] + h @ weight.T).chunk(4, dim=-1)
            c = torch.sigmoid(forget) * c + torch.sigmoid(insert) * torch.tanh(content)
            h = torch.sigmoid(show) * torch.tanh(c)
            outputs.append(h)
    return torch.stack(outputs, dim=1), torch.cat([h, c], dim=-1)
