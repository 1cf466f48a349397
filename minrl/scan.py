"""The recurrences by name. Each picks a kernel by device and takes resets and an initial state.

All run in linear space: gates and states are float32 (float64 for float64 input), whatever the
precision of the input. Shapes: B batch, T time, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minrl.kernels.guard import in_torch, without_fused_kernels
from minrl.kernels.scan import chunked, cpu, cuda, reference
from minrl.kernels.scan.gates import (
    Candidate,
    candidate_checked,
    in_state_precision,
    mingru_gates,
    minlstm_gates,
    recurrence_of,
)

__all__ = [
    "FUSED",
    "KERNELS",
    "Candidate",
    "candidate_checked",
    "gated_scan",
    "kernel_for",
    "linear_scan",
    "mingru_gates",
    "mingru_scan",
    "minlstm_gates",
    "minlstm_scan",
    "without_fused_kernels",
]

LinearScan = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]

KERNELS: dict[str, LinearScan] = {
    "reference": reference.linear_scan,
    "chunked": chunked.linear_scan,
    "cpu": cpu.linear_scan,
    "cuda": cuda.linear_scan,
}
# Fused kernels: gates and recurrence in one pass over memory instead of a dozen.
FUSED = {"cpu": cpu.gated_scan, "cuda": cuda.gated_scan}


def kernel_for(x: Tensor) -> str:
    """Return the name in `KERNELS` of the kernel that runs on inputs like `x`."""
    if in_torch():
        return "chunked"
    if cpu.takes(x):
        return "cpu"
    return "cuda" if cuda.takes(x) else "chunked"


def linear_scan(
    decay: Tensor, drive: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute h_t = decay_t * h_{t-1} + drive_t, with h_{t-1} := 0 where `reset[:, t]`.

    Args:
        decay: (B, T, D), real or complex.
        drive: (B, T, D).
        state: (B, D) the initial state; None is zero.
        reset: (B, T) bool, True where a step opens an episode; None for no reset.

    Returns:
        h (B, T, D) and the last state (B, D).

    Raises:
        ValueError: if the shapes do not fit or there is no step.
    """
    if decay.shape != drive.shape or drive.dim() != 3:
        raise ValueError(f"decay and drive must both be (B, T, D) with T >= 1, got {_shape(decay)} and {_shape(drive)}")
    decay, drive = in_state_precision(decay), in_state_precision(drive)
    _check_shapes(drive, drive.shape[2], state, reset)
    state = None if state is None else state.to(drive.dtype)
    return KERNELS[kernel_for(drive)](decay, drive, state, reset)


def mingru_scan(
    gates: Tensor,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    candidate: Candidate = "positive",
    signed: bool = False,
    hard: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the minGRU: z = sigmoid(k), h_t = (1 - z_t) * h_{t-1} + z_t * g(v_t) (arXiv 2410.01201, section 3.1).

    Args:
        gates: (B, T, 2D) update gate k | candidate v, both before their maps.
        state: (B, D) or None.
        reset: (B, T) bool or None.
        candidate: the map g: "positive" is the paper's x + 0.5 (x >= 0), sigmoid(x) (x < 0).
        signed: decay 1 - 2z in (-1, 1) instead of 1 - z, so that a state can flip its sign.
        hard: z = clip(k / 6 + 1/2, 0, 1), which reaches 0: the state is then held exactly.

    Returns:
        h (B, T, D) in the precision of `gates` and the last state (B, D) in float32 or float64.
    """
    return gated_scan(gates, state, reset, parts=2, candidate=candidate, signed=signed, hard=hard)


def minlstm_scan(
    gates: Tensor,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    candidate: Candidate = "positive",
    signed: bool = False,
    hard: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the minLSTM: f' = f / (f + i), i' = i / (f + i), h_t = f'_t * h_{t-1} + i'_t * g(v_t) (section 3.2).

    Args:
        gates: (B, T, 3D) forget gate | input gate | candidate v, all before their maps.
        state, reset, candidate: as for `mingru_scan`.
        signed: decay 2f' - 1 in (-1, 1) instead of f'.
        hard: i = clip(x / 6 + 1/2, 0, 1) of the input gate, which reaches 0: the state is then held exactly.

    Returns:
        h (B, T, D) in the precision of `gates` and the last state (B, D) in float32 or float64.
    """
    return gated_scan(gates, state, reset, parts=3, candidate=candidate, signed=signed, hard=hard)


def gated_scan(
    gates: Tensor,
    state: Tensor | None,
    reset: Tensor | None,
    *,
    parts: int,
    candidate: Candidate,
    signed: bool,
    hard: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute `mingru_scan` (parts=2) or `minlstm_scan` (parts=3): by a fused kernel where there is one."""
    candidate_checked(candidate)
    if gates.dim() != 3 or gates.shape[2] % parts or gates.is_complex():
        raise ValueError(f"gates must be real, (B, T, {parts}D) with T >= 1, got {gates.dtype} {_shape(gates)}")
    # The CUDA kernels read half precision themselves.
    pre = gates if kernel_for(gates) == "cuda" else in_state_precision(gates)
    if fused := FUSED.get(kernel_for(pre)):
        _check_shapes(pre, pre.shape[2] // parts, state, reset)
        state = None if state is None else state.to(torch.promote_types(pre.dtype, torch.float32))
        h, last = fused(pre, state, reset, parts=parts, candidate=candidate, signed=signed, hard=hard)
    else:
        decay, drive = recurrence_of(pre, parts=parts, candidate=candidate, signed=signed, hard=hard)
        if pre.shape[1] == 1 and state is not None and reset is None:  # a step: nothing to scan
            last = torch.addcmul(drive[:, 0], decay[:, 0], state)
            h = last.unsqueeze(1)
        else:
            h, last = linear_scan(decay, drive, state, reset)
    return h.to(gates.dtype), last


def _check_shapes(x: Tensor, width: int, state: Tensor | None, reset: Tensor | None) -> None:
    batch, steps, _ = x.shape
    if steps == 0:
        raise ValueError(f"a scan needs at least one step, T >= 1, got {_shape(x)}")
    if state is not None and state.shape != (batch, width):
        raise ValueError(f"state must be (B, D) = {(batch, width)}, got {_shape(state)}")
    if reset is not None and (reset.shape != (batch, steps) or reset.dtype != torch.bool):
        raise ValueError(f"reset must be bool of shape (B, T) = {(batch, steps)}, got {reset.dtype} {_shape(reset)}")


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
