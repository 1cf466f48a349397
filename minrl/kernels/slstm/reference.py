"""The sLSTM's recurrence as a loop over its equations (Beck et al., 2024, arXiv 2405.04517, section 2.2).

Shapes: B batch, T time, H heads of E units, D = H * E.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# The logarithm of a zero weight: far below any other, and finite, so that differences are not NaN.
EMPTY = -1e30


def slstm_scan(
    gates: Tensor, weight: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute equations 8 to 17 as a loop over time.

    Where `reset[:, t]`, the state before the step is zero, whatever it was, and no gradient crosses.

    Args:
        gates: (B, T, H, 4E) the input's and the biases' part of i | f | z | o of each head, before their maps.
        weight: (H, E, 4E) from the units of a head to its gates.
        state: (B, 4D) the initial h | c | n | m, in units of exp(m); None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        h (B, T, D) and the last state (B, 4D), whose m takes no gradient.
    """
    batch, steps, heads, wide = gates.shape
    memory = gates.new_zeros(batch, heads * wide) if state is None else state
    memory = memory.unflatten(1, (4, heads, -1)).permute(1, 2, 0, 3)
    outputs, by_head = [], gates.permute(2, 0, 1, 3)
    for t in range(steps):
        if reset is not None:
            memory = memory.masked_fill(reset[:, t, None], 0.0)
        memory = advance(by_head[:, :, t], memory, weight)
        outputs.append(memory[0])
    h = torch.stack(outputs, dim=2).permute(1, 2, 0, 3).flatten(2)
    return h, memory.permute(2, 0, 1, 3).flatten(1)


def advance(gates: Tensor, memory: Tensor, weight: Tensor) -> Tensor:
    """Compute one step from gates (H, B, 4E) and h, c, n, m (4, H, B, E) to the next h, c, n, m."""
    h, c, n, m = memory
    gates = gates + h @ weight
    i, f, z, o = gates.chunk(4, dim=-1)
    kept = torch.where(n > 0, m, EMPTY) + F.logsigmoid(f)
    m = torch.maximum(kept, i).detach()  # a unit, on which results do not depend
    insert, keep = torch.exp(i - m), torch.exp(kept - m)
    c = keep * c + insert * torch.tanh(z)
    n = keep * n + insert
    return torch.stack([torch.sigmoid(o) * c / n, c, n, m])
