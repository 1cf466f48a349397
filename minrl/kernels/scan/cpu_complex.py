"""The complex linear recurrence on a CPU as a torch operator: one compiled pass forward and one backward.

Gradients follow torch's convention: those of a product are products with the conjugate. A decay that is one row
expanded over batch and time is read as that row.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minrl.kernels.jit.operators import register_linear, reset_flags
from minrl.kernels.jit.threads import share_items

Gradients = tuple[Tensor, Tensor, Tensor]


def linear_scan(decay: Tensor, drive: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute as `minrl.scan.linear_scan` does, for complex decay and drive of one precision on the CPU."""
    h, last = torch.ops.minrl.cpu_complex_scan(decay, drive, state, reset)
    return h, last


def _forward(decay: Tensor, drive: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, steps, width = drive.shape
    h, last = drive.new_empty(batch, steps, width), drive.new_empty(batch, width)
    arrays = [_numbers(_row(decay)), _numbers(drive), _numbers(state, drive), reset_flags(reset)]
    _run(_loops().forward(), [*arrays, _numbers(h), _numbers(last)], h)
    return h, last


def _backward(
    decay: Tensor, state: Tensor | None, reset: Tensor | None, h: Tensor, dh: Tensor, dlast: Tensor
) -> Gradients:
    ddecay, ddrive, dstate = torch.empty_like(h), torch.empty_like(h), h.new_empty(dlast.shape)
    arrays = [_numbers(_row(decay)), _numbers(state, h), reset_flags(reset)]
    outputs = [_numbers(x) for x in (h, dh, dlast, ddecay, ddrive, dstate)]
    _run(_loops().backward(), [*arrays, *outputs], h)
    return ddecay, ddrive, dstate


def _loops() -> Any:
    from minrl.kernels.scan import cpu_complex_loops  # it imports numba

    return cpu_complex_loops


def _row(decay: Tensor) -> Tensor:
    """Return the one row (D) of an expanded decay, or the decay itself."""
    is_expanded = decay.numel() > 0 and decay.stride()[:2] == (0, 0)
    return decay[0, 0] if is_expanded else decay


def _numbers(x: Tensor | None, like: Tensor | None = None) -> Any:
    """Return `x` as flat real elements, real and imaginary parts in turn; an empty array without `x`."""
    if x is None:
        assert like is not None
        x = like.new_empty(0)
    return torch.view_as_real(x.detach().resolve_conj().contiguous()).view(-1).numpy()


def _run(kernel: Callable[..., None], arrays: list[Any], h: Tensor) -> None:
    """Share the B * N blocks of lanes of `h` (B, T, D) among threads."""
    _, steps, width = h.shape
    items = h.shape[0] * _loops().blocks_of(width)
    share_items(lambda thread, first, end: kernel(*arrays, first, end, steps, width), items, 2 * h.numel())


register_linear("cpu_complex_scan", "cpu", _forward, _backward)
