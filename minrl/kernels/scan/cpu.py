"""The recurrences on a CPU as torch operators, each one compiled pass over memory forward and one backward.

They save their inputs and h; gates are recomputed in the backward pass. Inputs that they do not take (other devices, no
numba) run in torch operations. Complex recurrences are in `cpu_complex`.

Shapes: B batch, T time, D width, P parts of the gates (2: minGRU, 3: minLSTM).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from minrl.kernels.guard import constant_in_graphs, under_transform
from minrl.kernels.jit.operators import flat, register_gated, register_linear, reset_flags, scalar
from minrl.kernels.jit.threads import share_items
from minrl.kernels.kinds import maps
from minrl.kernels.scan import chunked, cpu_complex

_REAL, _COMPLEX = (torch.float32, torch.float64), (torch.complex64, torch.complex128)


@constant_in_graphs
def available() -> bool:
    """Return True if numba is installed and works with the installed numpy."""
    return _numba_works()


@cache
def _numba_works() -> bool:
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def takes(x: Tensor) -> bool:
    """Return True if the kernels take an input like `x`; complex inputs only by `linear_scan`."""
    return x.device.type == "cpu" and x.dtype in _REAL + _COMPLEX and available() and not under_transform()


def linear_scan(
    decay: Tensor, drive: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute as `minrl.scan.linear_scan` does."""
    if not takes(drive) or decay.dtype != drive.dtype or decay.device != drive.device:
        return chunked.linear_scan(decay, drive, state, reset)
    if drive.is_complex():
        return cpu_complex.linear_scan(decay, drive, state, reset)
    h, last = torch.ops.minrl.cpu_linear_scan(decay, drive, state, reset)
    return h, last


def gated_scan(
    gates: Tensor,
    state: Tensor | None,
    reset: Tensor | None,
    *,
    parts: int,
    candidate: str,
    signed: bool,
    hard: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the minGRU of gates (B, T, 2D) or the minLSTM of gates (B, T, 3D): h (B, T, D), last state (B, D)."""
    h, last = torch.ops.minrl.cpu_gated_scan(gates, state, reset, parts, candidate, signed, hard)
    return h, last


def _gated_forward(
    gates: Tensor, state: Tensor | None, reset: Tensor | None, parts: int, candidate: str, signed: bool, hard: bool
) -> tuple[Tensor, Tensor]:
    batch, steps, columns = gates.shape
    width = columns // parts
    h, last = gates.new_empty(batch, steps, width), gates.new_empty(batch, width)
    arrays = [flat(gates), flat(state, gates), reset_flags(reset), flat(h), flat(last)]
    kernel = _loops().gated_forward(parts, maps(candidate, hard))
    _run(kernel, arrays, (steps, width, scalar(signed, gates)), h)
    return h, last


def _gated_backward(
    gates: Tensor,
    state: Tensor | None,
    reset: Tensor | None,
    h: Tensor,
    dh: Tensor,
    dlast: Tensor,
    parts: int,
    candidate: str,
    signed: bool,
    hard: bool,
) -> tuple[Tensor, Tensor]:
    _, steps, width = h.shape
    dgates, dstate = torch.empty_like(gates, memory_format=torch.contiguous_format), torch.empty_like(dlast)
    inputs = [flat(gates), flat(state, gates), reset_flags(reset), flat(h), flat(dh), flat(dlast)]
    kernel = _loops().gated_backward(parts, maps(candidate, hard))
    _run(kernel, [*inputs, flat(dgates), flat(dstate)], (steps, width, scalar(signed, gates)), h)
    return dgates, dstate


def _linear_forward(decay: Tensor, drive: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, steps, width = drive.shape
    h, last = drive.new_empty(batch, steps, width), drive.new_empty(batch, width)
    arrays = [flat(decay), flat(drive), flat(state, drive), reset_flags(reset), flat(h), flat(last)]
    _run(_loops().linear_forward(), arrays, (steps, width), h)
    return h, last


def _linear_backward(
    decay: Tensor, state: Tensor | None, reset: Tensor | None, h: Tensor, dh: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _, steps, width = h.shape
    ddecay, ddrive, dstate = torch.empty_like(h), torch.empty_like(h), h.new_empty(dlast.shape)
    inputs = [flat(decay), flat(state, h), reset_flags(reset), flat(h), flat(dh), flat(dlast)]
    _run(_loops().linear_backward(), [*inputs, flat(ddecay), flat(ddrive), flat(dstate)], (steps, width), h)
    return ddecay, ddrive, dstate


def _loops() -> Any:
    from minrl.kernels.scan import cpu_loops  # it imports numba

    return cpu_loops


def _run(kernel: Callable[..., None], arrays: list[Any], options: tuple[Any, ...], h: Tensor) -> None:
    """Share the B * N blocks of lanes of `h` (B, T, D) among threads."""
    items = h.shape[0] * _loops().blocks_of(h.shape[2])
    share_items(lambda thread, first, end: kernel(*arrays, first, end, *options), items, h.numel())


register_gated("cpu_gated_scan", "cpu", _gated_forward, _gated_backward)
register_linear("cpu_linear_scan", "cpu", _linear_forward, _linear_backward)
