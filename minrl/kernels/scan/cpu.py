"""The recurrences on a CPU as torch operators, each one compiled pass over memory forward and one backward.

They save their inputs and h; gates are formed anew on the way back. What they do not take (other devices, no numba)
runs in torch operations. Complex recurrences are in `cpu_complex`.

Shapes: B batch, T time, D width, P parts of the gates (2: minGRU, 3: minLSTM).
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minrl.kernels.guard import under_transform
from minrl.kernels.jit.operators import register_gated, register_linear
from minrl.kernels.scan import chunked

_REAL, _COMPLEX = (torch.float32, torch.float64), (torch.complex64, torch.complex128)
# Below so many numbers a second thread costs more than it brings.
NUMBERS_PER_THREAD = 1 << 15


@torch.compiler.assume_constant_result  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def available() -> bool:
    """Whether numba is there and works with the numpy that is."""
    return _numba_works()


@cache
def _numba_works() -> bool:
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def takes(x: Tensor) -> bool:
    """Return True if the kernels take an input like `x` here; complex ones go through `linear_scan` alone."""
    return x.device.type == "cpu" and x.dtype in _REAL + _COMPLEX and bool(available()) and not under_transform()


def linear_scan(
    decay: Tensor, drive: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `minrl.scan.linear_scan`."""
    if not takes(drive) or decay.dtype != drive.dtype or decay.device != drive.device:
        return chunked.linear_scan(decay, drive, state, reset)
    if drive.is_complex():
        return cpu_complex.linear_scan(decay, drive, state, reset)
    h, last = torch.ops.minrl.cpu_linear_scan(decay, drive, state, reset)
    return h, last


def gated_scan(
    gates: Tensor, state: Tensor | None, reset: Tensor | None, *, parts: int, candidate: str, signed: bool
) -> tuple[Tensor, Tensor]:
    """The minGRU of gates (B, T, 2D) or the minLSTM of gates (B, T, 3D): h (B, T, D), last state (B, D)."""
    h, last = torch.ops.minrl.cpu_gated_scan(gates, state, reset, parts, candidate, signed)
    return h, last


def _gated_forward(
    gates: Tensor, state: Tensor | None, reset: Tensor | None, parts: int, candidate: str, signed: bool
) -> tuple[Tensor, Tensor]:
    loops = _loops()
    batch, steps, columns = gates.shape
    width = columns // parts
    h, last = gates.new_empty(batch, steps, width), gates.new_empty(batch, width)
    arrays = [_flat(gates), _flat(state, gates), _flags(reset), _flat(h), _flat(last)]
    kernel = loops.gated_forward(parts, _candidate(candidate))
    _run(kernel, arrays, (steps, width, _flag(signed, gates)), h)
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
) -> tuple[Tensor, Tensor]:
    loops = _loops()
    _, steps, width = h.shape
    dgates, dstate = torch.empty_like(gates, memory_format=torch.contiguous_format), torch.empty_like(dlast)
    inputs = [_flat(gates), _flat(state, gates), _flags(reset), _flat(h), _flat(dh), _flat(dlast)]
    kernel = loops.gated_backward(parts, _candidate(candidate))
    _run(kernel, [*inputs, _flat(dgates), _flat(dstate)], (steps, width, _flag(signed, gates)), h)
    return dgates, dstate


def _linear_forward(decay: Tensor, drive: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, steps, width = drive.shape
    h, last = drive.new_empty(batch, steps, width), drive.new_empty(batch, width)
    arrays = [_flat(decay), _flat(drive), _flat(state, drive), _flags(reset), _flat(h), _flat(last)]
    loops = _loops()
    _run(loops.linear_forward(), arrays, (steps, width), h)
    return h, last


def _linear_backward(
    decay: Tensor, state: Tensor | None, reset: Tensor | None, h: Tensor, dh: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _, steps, width = h.shape
    ddecay, ddrive, dstate = torch.empty_like(h), torch.empty_like(h), h.new_empty(dlast.shape)
    inputs = [_flat(decay), _flat(state, h), _flags(reset), _flat(h), _flat(dh), _flat(dlast)]
    loops = _loops()
    _run(
        loops.linear_backward(),
        [*inputs, _flat(ddecay), _flat(ddrive), _flat(dstate)],
        (steps, width),
        h,
    )
    return ddecay, ddrive, dstate


def _loops() -> Any:
    from minrl.kernels.scan import cpu_loops  # it imports numba

    return cpu_loops


def _candidate(name: str) -> int:
    from minrl.kernels.scan import cpu_gates

    return cpu_gates.CANDIDATES[name]


def _flat(x: Tensor | None, like: Tensor | None = None) -> Any:
    """The numbers of `x` in one row; without `x` none, in the precision of `like`."""
    if x is None:
        return np.empty(0, _flag(False, like).dtype)
    return x.detach().contiguous().view(-1).numpy()


def _flags(reset: Tensor | None) -> Any:
    return np.empty(0, np.bool_) if reset is None else _flat(reset)


def _flag(signed: bool, like: Tensor | None) -> Any:
    """1 or 0 in the precision of `like`."""
    return (np.float64 if like is not None and like.dtype == torch.float64 else np.float32)(signed)


def _run(kernel: Callable[..., None], arrays: list[Any], options: tuple[Any, ...], h: Tensor) -> None:
    """Share the B * N blocks of lanes of `h` (B, T, D) among as many threads as torch has."""
    items = h.shape[0] * _loops().blocks_of(h.shape[2])
    threads = min(torch.get_num_threads(), items, h.numel() // NUMBERS_PER_THREAD)
    if threads <= 1:
        kernel(*arrays, 0, items, *options)
        return
    cuts = [items * i // threads for i in range(threads + 1)]
    others = [thread_pool().submit(kernel, *arrays, first, end, *options) for first, end in pairwise(cuts[1:])]
    kernel(*arrays, 0, cuts[1], *options)
    for other in others:
        other.result()


@cache
def thread_pool() -> ThreadPoolExecutor:
    """The threads that share out rows and lanes; idle ones cost nothing."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="minrl-scan")


if hasattr(os, "register_at_fork"):
    # A child process has none of its parent's threads.
    os.register_at_fork(after_in_child=thread_pool.cache_clear)


def _fake_gated(
    gates: Tensor, state: Tensor | None, reset: Tensor | None, parts: int, candidate: str, signed: bool
) -> tuple[Tensor, Tensor]:
    batch, steps, columns = gates.shape
    return gates.new_empty(batch, steps, columns // parts), gates.new_empty(batch, columns // parts)


def _fake_gated_backward(gates: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
    dlast = inputs[4]
    return torch.empty_like(gates, memory_format=torch.contiguous_format), dlast.new_empty(dlast.shape)


def _fake_linear(decay: Tensor, drive: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, steps, width = drive.shape
    return drive.new_empty(batch, steps, width), drive.new_empty(batch, width)


def _fake_linear_backward(decay: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    h, dlast = inputs[2], inputs[4]
    return torch.empty_like(h), torch.empty_like(h), dlast.new_empty(dlast.shape)


register_gated("cpu_gated_scan", "cpu", _gated_forward, _gated_backward, _fake_gated, _fake_gated_backward)
register_linear("cpu_linear_scan", "cpu", _linear_forward, _linear_backward, _fake_linear, _fake_linear_backward)

# Last, as it uses the functions above.
from minrl.kernels.scan import cpu_complex  # noqa: E402
