"""Peak memory of a layer's forward and backward pass, from input to gradients.

On a CPU each layer runs in a process of its own (`python -m minrl.bench.memory`), whose C library returns freed memory
at once; the peak is the rise of resident memory above its value before the input exists, as Linux reports it. On a GPU
it is the peak of torch's allocator.

Shapes: B batch, T time, D width.
"""

import contextlib
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minrl.bench.compared_layers import forward_backward, inputs, make_layer
from minrl.bench.results import Settings

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Every tensor above 64 KiB is a separate mapping, which is returned to the system when it is freed.
_RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def peaks(settings: Settings, name: str, batch: int, lengths: Sequence[int], width: int) -> dict[int, int]:
    """Measure bytes at each length for a layer of `minrl.bench.compared_layers.LAYERS`.

    Raises:
        RuntimeError: where they cannot be measured, with the reason.
    """
    if settings.on_gpu:
        return {n: allocated_peak(partial(_run, settings, name, batch, n, width), settings.device) for n in lengths}
    threads = torch.get_num_threads()
    return peaks_apart("minrl.bench.memory", [name, batch, list(lengths), width, threads], threads)


def peaks_apart(module: str, asked: list[Any], threads: int) -> dict[int, int]:
    """Run `module` in a process of its own with `asked` as argument; return its output, bytes at each length.

    Raises:
        RuntimeError: where they cannot be measured, with the reason.
    """
    if not os.access(_CLEAR, os.W_OK):
        raise RuntimeError("peak memory on a CPU is measured through Linux's /proc")
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(asked)],
        env={**os.environ, **_RETURNING, "LD_PRELOAD": "", "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = "out of memory?" if done.returncode < 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"its process ended with code {done.returncode}: {why}")
    return {int(steps): value for steps, value in json.loads(done.stdout).items()}


def print_peaks(run: Callable[[int], object], lengths: Sequence[int], threads: int) -> None:
    """Print, for `peaks_apart`, the rise of this process's memory while `run` makes a pass of each length."""
    torch.set_num_threads(threads)
    for _ in range(2):  # memory of libraries and compiled code is not counted
        run(min(lengths))
    print(json.dumps({steps: resident_peak(partial(run, steps)) for steps in lengths}))


def allocated_peak(call: Callable[[], object], device: torch.device) -> int:
    """Measure the peak of torch's allocator while `call` runs on a GPU, in bytes."""
    call()  # handles and workspaces of libraries are not counted
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(device) - before


def _run(settings: Settings, name: str, batch: int, steps: int, width: int) -> None:
    """Compute and discard input, weights, outputs and gradients."""
    x, reset, direction = inputs(settings, (batch, steps, width))
    forward_backward(make_layer(name, settings, width), x, reset, direction)()


def resident_peak(call: Callable[[], object]) -> int:
    """Measure the peak rise of this process's resident memory while `call` runs, in bytes."""
    _give_back()
    before = _resident("VmRSS")
    _CLEAR.write_text("5", encoding="ascii")  # reset the peak to the current resident memory
    call()
    return _resident("VmHWM") - before


def _give_back() -> None:
    """Release freed memory to the system, which the next call could otherwise reuse unnoticed."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


def _main(asked: str) -> None:
    name, batch, lengths, width, threads = json.loads(asked)
    settings = Settings(threads=(threads,))
    print_peaks(lambda steps: _run(settings, name, batch, steps, width), lengths, threads)


if __name__ == "__main__":
    _main(sys.argv[1])
