"""Keep NaN and infinity within their episode, where a product with zero would spread them: zero times NaN is NaN.

Recurrences select at a reset (`minrl.scan`). This module is for matmuls that cannot: of weights with all steps in a
backward pass (`contained`), and of attention or a chunk with a mask of zeros (`reached`, `finite_gradients`).

Shapes: B batch, T time.
"""

import math
import threading
from collections.abc import Callable
from functools import reduce, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from minrl.kernels.guard import is_unwatched

Scan = TypeVar("Scan", bound=Callable[..., tuple[Tensor, Tensor]])

# Torch has no public name for its number of function modes.
_function_modes: Any = getattr(torch._C, "_len_torch_function_stack", int)

# Cells inside a contained backbone have finite inputs already: they are not checked again.
_outer = threading.local()


def contained(scan: Scan) -> Scan:
    """Make NaN and infinity in the inputs or the entering state of a cell's `scan` end with their episode.

    Such values enter as zeros, so that no matmul in the backward pass meets them, and outputs and state of their
    episode are NaN from that step on. The same holds for finite values too large for norms (`_largest`) and, on a
    CPU, for those that overflow inside the cell: it runs once more without them. All other results, the gradients of
    other steps included, equal to the bit those without such values. Finite inputs cost two passes over inputs and
    outputs on a CPU; elsewhere nothing is read back to the host.
    """

    @wraps(scan)
    def run(cell: Any, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if reset is None or getattr(_outer, "active", False):
            return scan(cell, x, state, reset)
        may_look = x.is_cpu and is_unwatched() and not _function_modes()
        if may_look and _all_small(x, state):
            y, last = _run(scan, cell, x, state, reset)
            if _all_finite(y):
                return y, last
            faulty, lost = _overflowing(y, state)
            if not faulty.any():  # only their sum is too large
                return y, last
        else:
            lost = torch.zeros_like(reset[:, 0]) if state is None else _not_small(1, state)
            faulty = _not_small(2, x)
        while True:
            spoiled = reached(faulty, lost, reset)
            within = _without(x, faulty), None if state is None else _without(state, lost)
            y, last = _run(scan, cell, *within, reset)
            if not may_look or _all_finite(y):
                break
            # Another value may overflow next: each pass leaves out at least one more step.
            more = _overflowing(y, state)
            if not (more[0] & ~faulty).any():
                break
            faulty, lost = faulty | more[0], lost | more[1]
        # Added, not filled in: a loss that reads such a step then has NaN gradients to parameters.
        return y + _nan_where(spoiled, y), last + _nan_where(spoiled[:, -1], last)

    return cast(Scan, run)


def _run(
    scan: Callable[..., tuple[Tensor, Tensor]], cell: Any, x: Tensor, state: Tensor | None, reset: Tensor
) -> tuple[Tensor, Tensor]:
    """Call `scan` on finite inputs, without checks in the cells inside."""
    _outer.active = not torch.compiler.is_compiling()
    try:
        return scan(cell, x, state, reset)
    finally:
        _outer.active = False


def _largest(x: Tensor) -> float:
    """Return the bound from which values count as infinite: about 2e16 in float32, 1e151 in float64.

    The squares of a million such values sum to the largest float. A norm maps larger ones to zero, and to NaN in the
    backward pass.
    """
    return math.sqrt(torch.finfo(x.dtype).max) / 1000


def _all_small(x: Tensor, state: Tensor | None) -> bool:
    """Return True if no value counts as infinite, by the root of the sum of their squares."""
    return all(
        torch.linalg.vector_norm(part.detach()).item() < _largest(part) for part in (x, state) if part is not None
    )


def _not_small(first: int, part: Tensor) -> Tensor:
    """Find NaN and values that count as infinite in (B, …), over all but the `first` dimensions."""
    return ~(part.abs() < _largest(part)).flatten(first).all(dim=first)


def _all_finite(y: Tensor) -> bool:
    """Return True if all values are finite by their sum, which may overflow for finite ones."""
    return math.isfinite(y.detach().sum().item())


def _overflowing(y: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Find the steps (B, T) whose outputs are not finite, and the entering states (B,) that the first one read."""
    faulty = not_finite(2, y)
    return faulty, torch.zeros_like(faulty[:, 0]) if state is None else faulty[:, 0]


def _without(x: Tensor, where: Tensor) -> Tensor:
    """Return `x` (B, T, D) or (B, S) with zeros in the steps or rows `where`."""
    return torch.where(where.unsqueeze(-1), 0.0, x)


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0.0)


def _nan_where(spoiled: Tensor, like: Tensor) -> Tensor:
    """Return NaN in the steps or rows `spoiled` (B, …), else 0, of a shape that broadcasts to `like`."""
    zeros = like.new_zeros(spoiled.shape + (1,) * (like.dim() - spoiled.dim()))
    return filled(zeros, spoiled, torch.nan)


def not_finite(first: int, *parts: Tensor) -> Tensor:
    """Find where any of `parts` (B, …) holds NaN or infinity, over all but their `first` dimensions."""
    return reduce(torch.logical_or, (~part.isfinite().flatten(first).all(dim=first) for part in parts))


def reached(faulty: Tensor, memory: Tensor, reset: Tensor | None) -> Tensor:
    """Find the steps (B, T) that a faulty step (B, T) or a faulty entering state (B,) of their episode reaches."""
    count = faulty.cumsum(dim=1) + memory.unsqueeze(1)
    if reset is None:
        return count > 0
    if torch.compiler.is_exporting():  # ONNX has no cumulative maximum; windows are short
        return _reached_pairwise(faulty, memory, reset)
    before = torch.where(reset, count - faulty.long(), 0).cummax(dim=1).values
    return count > before


def _reached_pairwise(faulty: Tensor, memory: Tensor, reset: Tensor) -> Tensor:
    """Compute `reached` from all pairs of steps, (B, T, T) bool."""
    episode = reset.cumsum(dim=1)
    same = episode.unsqueeze(2) == episode.unsqueeze(1)
    steps = torch.arange(reset.shape[1], device=reset.device)
    earlier = steps.unsqueeze(1) >= steps.unsqueeze(0)
    inside = (same & earlier & faulty.unsqueeze(1)).any(dim=2)
    return inside | (memory.unsqueeze(1) & (episode == 0))


def filled(x: Tensor, where: Tensor, value: float = 0.0) -> Tensor:
    """Return `x` (B, T, …) or (B, …) with `value` in the steps or rows `where`."""
    return x.masked_fill(where.view(where.shape + (1,) * (x.dim() - where.dim())), value)


def finite_gradients(y: Tensor, source: Tensor) -> Tensor:
    """Return `y`, whose gradient goes back with zeros for NaN and infinity; `source`, of the same steps, takes NaN.

    Matmuls with a mask of zeros spread a gradient that is not finite into other episodes. It is not hidden: zero
    times it goes to `source` (of a shape that broadcasts to that of `y`), and so to the parameters before it.
    """
    if y.requires_grad and not torch.compiler.is_compiling():
        # With a backward hook on the module around it, torch calls this without a gradient too.
        y.register_hook(lambda dy: None if dy is None else _finite(dy))
    return y + 0.0 * source
