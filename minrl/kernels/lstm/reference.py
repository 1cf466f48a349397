"""The LSTM's recurrence as its equations read: what the compiled kernel is tested against, and runs where it cannot.

Shapes: B batch, T time, H width.
"""

import torch
from torch import Tensor


def lstm_scan(
    gates: Tensor, weight: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run as `minrl.scan.lstm_scan` does, as a loop over time."""
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
