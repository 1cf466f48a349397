"""The gates of minGRU and minLSTM in torch operations (Were RNNs All We Needed?, arXiv 2410.01201, section 3).

Shapes: D width, P parts of the gates (2: minGRU, 3: minLSTM).
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Candidate = Literal["positive", "tanh", "linear"]
# Of f + i with a hard input gate, which float32's sigmoid leaves at 0 where both gates are closed.
LEAST = 1e-30


def recurrence_of(
    gates: Tensor, *, parts: int, candidate: Candidate, signed: bool, hard: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute decay and drive (..., D) of the linear recurrence from the gates (..., PD) before their maps."""
    form = mingru_gates if parts == 2 else minlstm_gates
    return form(gates, candidate=candidate, signed=signed, hard=hard)


def mingru_gates(gates: Tensor, *, candidate: Candidate, signed: bool, hard: bool = False) -> tuple[Tensor, Tensor]:
    """Compute decay and drive (..., D) from update gate | candidate (..., 2D) (section 3.1)."""
    update, content = in_state_precision(gates).chunk(2, dim=-1)
    z = hard_sigmoid(update) if hard else torch.sigmoid(update)
    decay = 1 - 2 * z if signed else 1 - z
    return decay, z * candidate_map(content, candidate)


def minlstm_gates(gates: Tensor, *, candidate: Candidate, signed: bool, hard: bool = False) -> tuple[Tensor, Tensor]:
    """Compute decay and drive (..., D) from forget gate | input gate | candidate (..., 3D) (section 3.2)."""
    forget, insert, content = in_state_precision(gates).chunk(3, dim=-1)
    if hard:
        i = hard_sigmoid(insert)
        i = i / (torch.sigmoid(forget) + i).clamp_min(LEAST)
    else:
        # f' is the sigmoid of log f - log i; the quotient itself is 0 / 0 where both gates are closed.
        i = torch.sigmoid(F.logsigmoid(insert) - F.logsigmoid(forget))
    decay = 1 - 2 * i if signed else 1 - i
    return decay, i * candidate_map(content, candidate)


def hard_sigmoid(x: Tensor) -> Tensor:
    """Compute clip(x / 6 + 1/2, 0, 1); `torch.nn.functional.hardsigmoid` has gradients in float32's precision only."""
    # x + 3 is exact where the gate is nearly closed; x / 6 + 1/2 there has the digits of 1/2 only.
    return ((x + 3.0) / 6.0).clamp(0.0, 1.0)


def candidate_map(x: Tensor, candidate: Candidate) -> Tensor:
    """Apply the map g of the candidate (appendix B, listing 6, for "positive")."""
    if candidate == "positive":
        return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))
    return torch.tanh(x) if candidate_checked(candidate) == "tanh" else x


def candidate_checked(candidate: Candidate) -> Candidate:
    """Return `candidate`, checked.

    Raises:
        ValueError: if there is no such map.
    """
    if candidate not in get_args(Candidate):
        raise ValueError(f"candidate must be one of {', '.join(get_args(Candidate))}, got {candidate!r}")
    return candidate


def in_state_precision(x: Tensor) -> Tensor:
    """Return `x` in the precision of a hidden state: half precision becomes float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
