"""The recurrences on a CUDA device as torch operators: Triton kernels, each one pass over memory forward and one back.

They read float32, bfloat16 or float16, form gates and keep states in float32, and write h and the gradients of the
gates in the precision that they read; the state and its gradient are float32. Inputs and h are saved; gates are
recomputed backward. Inputs that they do not take (float64, complex, other devices, no Triton) run in torch
operations. Launches depend on shapes alone, so that a training step can be recorded as a CUDA graph.

Shapes: B batch, T time, D width, N chunks of time, P parts of the gates (1: linear, 2: minGRU, 3: minLSTM).
"""

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from minrl.kernels.guard import constant_in_graphs, under_transform
from minrl.kernels.jit.operators import register_gated, register_linear
from minrl.kernels.scan import chunked

# The tile of a program: 8 elements per thread, no spills (benchmarks/cuda_kernel.md).
ROWS, LANES, WARPS, STAGES = 16, 32, 2, 3
# Time is cut into chunks if a multiprocessor would have fewer programs than the first number, so that it has the
# second: reading the gates twice costs two thirds more traffic, which pays only if most of the chip would be idle.
FEW, ENOUGH = 2, 4
# The fewest steps of a chunk: with fewer, its second launch costs more than it saves.
CHUNK = 256
_PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


@constant_in_graphs
def interpreted() -> bool:
    """Return True if Triton's interpreter runs its kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@constant_in_graphs
def available() -> bool:
    """Return True if Triton is installed and every GPU is an Ampere or newer, as the kernels require."""
    return _triton_works()


@cache
def _triton_works() -> bool:
    try:
        from triton import language
    except ImportError:
        return False
    if not hasattr(language, "gather"):  # Triton 3.2
        return False
    if interpreted():
        return True
    if torch.version.hip or not torch.cuda.is_available():
        return False
    return all(torch.cuda.get_device_capability(i) >= (8, 0) for i in range(torch.cuda.device_count()))


def takes(x: Tensor) -> bool:
    """Return True if the kernels take an input like `x` here."""
    on_device = x.device.type == "cuda" or (x.device.type == "cpu" and interpreted())
    return on_device and x.dtype in _PRECISIONS and available() and not under_transform()


def linear_scan(
    decay: Tensor, drive: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute as `minrl.scan.linear_scan` does; the last state is float32."""
    if not takes(drive) or decay.dtype != drive.dtype or decay.device != drive.device:
        return chunked.linear_scan(decay, drive, state, reset)
    h, last = torch.ops.minrl.cuda_linear_scan(decay, drive, None if state is None else state.float(), reset)
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
    """Compute the minGRU of gates (B, T, 2D) or the minLSTM of gates (B, T, 3D): h (B, T, D), last state (B, D) in
    float32."""
    state = None if state is None else state.float()
    h, last = torch.ops.minrl.cuda_gated_scan(gates, state, reset, parts, candidate, signed, hard)
    return h, last


def chunks_of(batch: int, steps: int, width: int, multiprocessors: int) -> tuple[int, int]:
    """Return the number of chunks of time, and the steps of each; the last may be shorter."""
    programs = batch * -(-width // LANES)
    if programs >= FEW * multiprocessors:
        return 1, steps
    chunks = min(-(-ENOUGH * multiprocessors // programs), steps // CHUNK)
    if chunks < 3:
        return 1, steps
    length = -(-steps // (chunks * ROWS)) * ROWS
    return -(-steps // length), length


def multiprocessors(device: torch.device) -> int:
    """Return the number of a GPU's processors; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _gated_forward(
    gates: Tensor, state: Tensor | None, reset: Tensor | None, parts: int, candidate: str, signed: bool, hard: bool
) -> tuple[Tensor, Tensor]:
    return _forward(gates, None, state, reset, parts, candidate, signed, hard)


def _linear_forward(decay: Tensor, drive: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    return _forward(decay, drive, state, reset, 1, "linear", False, False)


def _forward(
    gates: Tensor, drive: Tensor | None, state: Tensor | None, reset: Tensor | None, parts: int, candidate: str,
    signed: bool, hard: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, steps, columns = gates.shape
    width = columns // parts
    h = gates.new_empty(batch, steps, width)
    last = gates.new_empty(batch, width, dtype=torch.float32)
    if not h.numel():
        return h, last
    launch = _Launch(h, {"PARTS": parts, "CANDIDATE": candidate, "SIGNED": signed, "HARD": hard})
    inputs = _dense(gates), _dense(drive)
    if launch.totals is not None:
        launch("forward_totals", launch.chunks - 1, *inputs, _flags(reset), launch.totals)
    launch("forward", launch.chunks, *inputs, _dense(state), _flags(reset), launch.totals, h, last)
    return h, last


def _gated_backward(
    gates: Tensor, state: Tensor | None, reset: Tensor | None, h: Tensor, dh: Tensor, dlast: Tensor, parts: int,
    candidate: str, signed: bool, hard: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dgates, _, dstate = _backward(gates, state, reset, h, dh, dlast, parts, candidate, signed, hard)
    return dgates, dstate


def _linear_backward(
    decay: Tensor, state: Tensor | None, reset: Tensor | None, h: Tensor, dh: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(decay, state, reset, h, dh, dlast, 1, "linear", False, False)


def _backward(
    gates: Tensor, state: Tensor | None, reset: Tensor | None, h: Tensor, dh: Tensor, dlast: Tensor, parts: int,
    candidate: str, signed: bool, hard: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dgates = torch.empty_like(gates, memory_format=torch.contiguous_format)
    ddrive = torch.empty_like(h) if parts == 1 else h.new_empty(0)
    dstate = h.new_empty(dlast.shape, dtype=torch.float32)
    if not h.numel():
        return dgates, ddrive, dstate
    gates, dh = _dense(gates), _dense(dh)
    launch = _Launch(h, {"PARTS": parts, "SIGNED": signed, "HARD": hard})
    if launch.totals is not None:
        launch("backward_totals", launch.chunks - 1, gates, _flags(reset), dh, launch.totals)
    inputs = gates, _dense(state), _flags(reset), _dense(h), dh, _dense(dlast), launch.totals
    results = dgates, ddrive if parts == 1 else None, dstate
    launch("backward", launch.chunks, *inputs, *results, CANDIDATE=candidate)
    return dgates, ddrive, dstate


class _Launch:
    """Launches for one h (B, T, D): the chunks of time, and a buffer of their totals (3, B, N, D)."""

    def __init__(self, h: Tensor, options: dict[str, Any]) -> None:
        batch, steps, width = h.shape
        self.chunks, length = chunks_of(batch, steps, width, multiprocessors(h.device))
        self.programs = batch * -(-width // LANES)
        self.sizes = steps, width, length, batch * self.chunks * width
        self.totals = h.new_empty(3, self.sizes[3], dtype=torch.float32) if self.chunks > 1 else None
        self.options = {**options, "ROWS": ROWS, "LANES": LANES, "STAGES": STAGES, "num_warps": WARPS}
        self.device = torch.cuda.device_of(h)  # type: ignore[no-untyped-call, unused-ignore]

    def __call__(self, name: str, chunks: int, *tensors: Tensor | None, **options: Any) -> None:
        from minrl.kernels.scan import cuda_loops  # it imports triton

        kernel = getattr(cuda_loops, name)
        with self.device:
            kernel[self.programs, chunks](*tensors, *self.sizes, **self.options, **options)


def _dense(x: Tensor | None) -> Any:
    """Return `x` contiguous and aligned to 16 bytes, as the kernels require."""
    if x is None:
        return None
    x = x.detach().contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _flags(reset: Tensor | None) -> Any:
    return None if reset is None else _dense(reset).view(torch.uint8)


# On the CPU for Triton's interpreter.
_DEVICES = "cuda", "cpu"
register_gated("cuda_gated_scan", _DEVICES, _gated_forward, _gated_backward, last=torch.float32)
register_linear("cuda_linear_scan", _DEVICES, _linear_forward, _linear_backward, last=torch.float32)
