"""A backbone's compiled scan against the same in torch's operations, in one interleaved run.

    python benchmarks/block_step.py [--threads 1] [--rounds 200] [--cell mingru] [--json FILE]

The first shapes are minibatches of recurrent PPO, the last two an offline agent's. Figures are ratios of the least
seconds of each (fused / plain), forward without gradients and forward and backward, to x and all weights, with resets
at one step in fifty. With one thread CPU time is measured, which other programs disturb less.

Shapes: B batch, T time, D width.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from minrl.backbone import Backbone


@dataclass(frozen=True)
class Shape:
    """Row of the table; `rounds` is the share of the rounds that it runs."""

    batch: int
    steps: int
    width: int
    depth: int = 2
    mlp: float = 0.0
    rounds: float = 1.0


SHAPES = (
    Shape(1, 128, 64),
    Shape(8, 16, 64),
    Shape(1, 128, 64, mlp=1),
    Shape(1, 128, 128),
    Shape(8, 16, 128),
    Shape(1, 128, 128, mlp=1),
    Shape(16, 64, 64),
    Shape(8, 128, 128, rounds=0.5),
    Shape(4, 256, 256, mlp=1, rounds=0.1),
    Shape(64, 20, 128, depth=3, mlp=4, rounds=0.1),
    Shape(64, 512, 128, depth=3, mlp=4, rounds=0.02),
)


class Plain(Backbone):
    """Backbone in torch's operations, as any subclass of `Backbone` is."""


def tasks(shape: Shape, cell: str) -> dict[str, Callable[[], object]]:
    """Build both versions, forward and forward + backward, with the same weights and inputs."""
    torch.manual_seed(0)
    fused, plain = (kind(shape.width, shape.depth, cell, mlp=shape.mlp) for kind in (Backbone, Plain))
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(shape.batch, shape.steps, shape.width, requires_grad=True)
    state, reset = torch.randn(shape.batch, fused.state_size), torch.rand(shape.batch, shape.steps) < 0.02
    direction = torch.randn_like(x)

    def forward(model: Backbone) -> object:
        with torch.no_grad():
            return model.scan(x, state, reset)

    def both(model: Backbone) -> object:
        return torch.autograd.grad(model.scan(x, state, reset)[0], [x, *model.parameters()], direction)

    return {
        "plain forward": lambda: forward(plain),
        "fused forward": lambda: forward(fused),
        "plain both": lambda: both(plain),
        "fused both": lambda: both(fused),
    }


def minima(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Measure the least seconds of each, interleaved by rounds, after two uncounted rounds."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    least = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 2):
        for name, call in calls.items():
            begin = clock()
            call()
            if number >= 2:
                least[name] = min(least[name], clock() - begin)
    return least


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--cell", choices=["mingru", "minlstm"], default="mingru")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, cell {arguments.cell}; fused / plain:")
    print(f"{'B':>4}{'T':>5}{'D':>5}{'depth':>7}{'mlp':>5}{'forward':>10}{'with backward':>15}{'(fused, ms)':>13}")
    results = []
    for shape in SHAPES:
        least = minima(tasks(shape, arguments.cell), max(3, round(arguments.rounds * shape.rounds)))
        forward, both = (least[f"fused {what}"] / least[f"plain {what}"] for what in ("forward", "both"))
        name = f"{shape.batch:4d}{shape.steps:5d}{shape.width:5d}{shape.depth:7d}{shape.mlp:5.0f}"
        print(f"{name}{forward:10.2f}{both:15.2f}{least['fused both'] * 1e3:13.2f}", flush=True)
        results.append({**vars(shape), "forward": forward, "both": both, "ms": least["fused both"] * 1e3})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
