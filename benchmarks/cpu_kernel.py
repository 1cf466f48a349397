"""The fused minGRU and minLSTM on a CPU against the memory-copy limit and the other forms, in one interleaved run.

    python benchmarks/cpu_kernel.py [--threads 1] [--rounds 7] [--shape 64 512 128] [--json FILE]

The limit is a copy that moves as many bytes as forward and backward must: 3 numbers for each of h and 6 for the
gradients (4 and 8 for minLSTM), reads and writes counted. Figures are ratios of minima, with the process's memory
allocator told to keep what it has (glibc otherwise returns each large tensor, and page faults cost more than the
kernel); `--plain-allocator` leaves it alone.

Shapes: B batch, T time, D width, P parts of the gates (2: minGRU, 3: minLSTM).
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minrl.kernels import chunked, reference
from minrl.scan import mingru_gates, mingru_scan, minlstm_gates, minlstm_scan

# What `mallopt` calls them in malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_memory() -> bool:
    """Have glibc keep freed memory; False where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def forward_backward(scan: Callable[[Tensor], Tensor], gates: Tensor) -> Callable[[], None]:
    """The gradient of all h to the gates."""
    gates = gates.clone().requires_grad_()
    direction = torch.randn(gates.shape[0], gates.shape[1], scan(gates[:1, :1]).shape[2])

    def run() -> None:
        torch.autograd.grad(scan(gates), gates, direction)

    return run


def forms(parts: int, reset: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """The ways to compute h from the gates."""
    scan, form = (mingru_scan, mingru_gates) if parts == 2 else (minlstm_scan, minlstm_gates)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "fused": lambda x: scan(x, None, reset[: x.shape[0], : x.shape[1]])[0],
        "chunked torch": lambda x: chunked.linear_scan(
            *form(x, candidate="positive", signed=False), None, reset[: x.shape[0], : x.shape[1]]
        )[0],
    }
    if parts == 2:
        ways["log-space torch, no resets"] = reference.log_space_mingru
    return ways


def minima(tasks: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The least seconds of each, one after another in every round, after one round that does not count."""
    least = dict.fromkeys(tasks, float("inf"))
    for number in range(rounds + 1):
        for name, task in tasks.items():
            begin = time.perf_counter()
            task()
            if number:
                least[name] = min(least[name], time.perf_counter() - begin)
    return least


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 512, 128], metavar=("B", "T", "D"))
    parser.add_argument("--plain-allocator", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    kept = not arguments.plain_allocator and keep_memory()
    batch, steps, width = arguments.shape
    reset = torch.rand(batch, steps) < 0.01
    numbers = batch * steps * width
    results: dict[str, float] = {}
    for parts, cell in ((2, "minGRU"), (3, "minLSTM")):
        gates = torch.randn(batch, steps, parts * width)
        source = torch.randn(numbers * (3 * parts + 3) // 2)
        target = torch.empty_like(source)
        tasks: dict[str, Callable[[], None]] = {"copy": lambda target=target, source=source: target.copy_(source)}
        for name, way in forms(parts, reset).items():
            tasks[name] = forward_backward(way, gates)
        least = minima(tasks, arguments.rounds)
        results |= {f"{cell}, {name}": seconds / least["copy"] for name, seconds in least.items() if name != "copy"}
        results[f"{cell}, copy (ms)"] = least["copy"] * 1e3
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, B T D {batch} {steps} {width}")
    print(f"allocator {'told to keep memory' if kept else 'as it is'}; forward + backward / memory copy:")
    for name, value in results.items():
        print(f"{name:<40} {value:8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
