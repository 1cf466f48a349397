"""Peak memory of any layer in a process of its own (`python -m minrl.reproduce.peak_memory`), for all lengths.

Shapes: B batch, T time, D width.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import torch

from minrl.bench.figures import Settings, Shape
from minrl.bench.memory import resident_peak

from .layers import training_pass

# Every tensor of more than 64 KiB is a mapping of its own and goes back to the system when it is freed.
_RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def peaks(layer: str, batch: int, lengths: Sequence[int], width: int, *, threads: int, device: str) -> dict[int, int]:
    """Bytes from the input to its gradients, forward and backward, at most, for each length.

    On a CPU it is the rise of the resident memory of a fresh process that has run the shortest sequence before; on a
    GPU what torch's allocator gives out.

    Raises:
        RuntimeError: where they cannot be measured, with the reason.
    """
    if torch.device(device).type == "cuda":
        settings = Settings(torch.device(device))
        return {steps: _on_gpu(layer, (batch, steps, width), settings) for steps in lengths}
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps([layer, batch, list(lengths), width, threads])],
        env={**os.environ, **_RETURNING, "LD_PRELOAD": "", "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = "out of memory?" if done.returncode < 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"its process ended with code {done.returncode}: {why}")
    return {int(steps): value for steps, value in json.loads(done.stdout).items()}


def _run(layer: str, shape: Shape, settings: Settings) -> None:
    """Input, weights, outputs and gradients, made and dropped."""
    training_pass(layer, shape, settings)()


def _on_gpu(layer: str, shape: Shape, settings: Settings) -> int:
    _run(layer, shape, settings)  # handles and workspaces of libraries stay
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(settings.device)
    torch.cuda.reset_peak_memory_stats(settings.device)
    _run(layer, shape, settings)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(settings.device) - before


def _main(asked: str) -> None:
    layer, batch, lengths, width, threads = json.loads(asked)
    torch.set_num_threads(threads)
    settings = Settings(threads=(threads,))
    for _ in range(2):  # libraries and compiled code stay
        _run(layer, (batch, min(lengths), width), settings)
    found = {steps: resident_peak(partial(_run, layer, (batch, steps, width), settings)) for steps in lengths}
    print(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1])
