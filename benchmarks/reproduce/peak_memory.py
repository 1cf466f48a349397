"""Peak memory of any layer in a process of its own (`python -m minrl.reproduce.peak_memory`), for all lengths.

Shapes: B batch, T time, D width.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial

import torch

from minrl.bench.memory import allocated_peak, peaks_apart, print_peaks
from minrl.bench.results import Settings, Shape

from .layers import training_pass


def peaks(layer: str, batch: int, lengths: Sequence[int], width: int, *, threads: int, device: str) -> dict[int, int]:
    """Measure the peak bytes of forward and backward pass, input included, for each length.

    On a CPU it is the rise of the resident memory of a fresh process that has run the shortest sequence before, on a
    GPU the peak of torch's allocator.

    Raises:
        RuntimeError: where they cannot be measured, with the reason.
    """
    settings = Settings(torch.device(device))
    if settings.on_gpu:
        return {n: allocated_peak(partial(_run, layer, (batch, n, width), settings), settings.device) for n in lengths}
    return peaks_apart(__name__, [layer, batch, list(lengths), width, threads], threads)


def _run(layer: str, shape: Shape, settings: Settings) -> None:
    """Compute and discard input, weights, outputs and gradients."""
    training_pass(layer, shape, settings)()


def _main(asked: str) -> None:
    layer, batch, lengths, width, threads = json.loads(asked)
    settings = Settings(threads=(threads,))
    print_peaks(lambda steps: _run(layer, (batch, steps, width), settings), lengths, threads)


if __name__ == "__main__":
    _main(sys.argv[1])
