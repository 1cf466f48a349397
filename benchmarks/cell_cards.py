"""A card for each cell: its size, and what a step and a training token cost against minGRU, in one interleaved run.

    python benchmarks/cell_cards.py [--width 128] [--rounds 7] [--table benchmarks/cell_cards.md]

The cells alone, without a block around them, in their default options. A step is one call of `step` for one row
without gradients; a training token is a 16 x 512 scan with resets forward and backward, over its number of tokens.
Figures are ratios of least CPU times with one thread, and the allocator told to keep memory.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import minrl
from minrl.agent import parameter_count
from minrl.bench.measure import Clock, clock_of, interleaved
from minrl.cells import CELLS, Cell

HERE = Path(__file__).resolve().parent
BATCH, STEPS = 16, 512


def step(cell: Cell) -> Callable[[], object]:
    """One step of one row, the state carried from call to call."""
    x, state = torch.randn(1, cell.width), cell.initial_state(1)

    def run() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = cell.step(x, state)

    return run


def training(cell: Cell) -> Callable[[], object]:
    """Forward and backward over whole sequences with resets."""
    x = torch.randn(BATCH, STEPS, cell.width, requires_grad=True)
    reset, direction = torch.rand(BATCH, STEPS) < 0.01, torch.randn(BATCH, STEPS, cell.width)
    leaves = [x, *cell.parameters()]
    return lambda: torch.autograd.grad((cell.scan(x, None, reset)[0] * direction).sum(), leaves, allow_unused=True)


def measure(width: int, rounds: int) -> list[dict[str, Any]]:
    """One record for each cell."""
    torch.manual_seed(0)
    cells = {name: family(width) for name, family in CELLS.items()}
    clock: Clock = clock_of(torch.device("cpu"))
    steps = interleaved({name: step(cell.eval()) for name, cell in cells.items()}, rounds, clock=clock)
    tokens = interleaved(
        {name: training(cell.train()) for name, cell in cells.items()}, rounds, clock=clock, budget=8.0
    )
    return [
        {
            "cell": name,
            "about": (type(cell).__doc__ or "").strip().splitlines()[0],
            "parameters": parameter_count(cell),
            "state": cell.state_size,
            "step": steps[name].minimum / steps["mingru"].minimum,
            "token": tokens[name].minimum / tokens["mingru"].minimum,
        }
        for name, cell in cells.items()
    ]


def table(cards: list[dict[str, Any]], width: int) -> str:
    """The cards in Markdown."""
    lines = [
        f"# Cells of width {width}",
        "",
        "| cell | parameters | state, numbers | step ÷ minGRU's | training token ÷ minGRU's |",
        "|---|---|---|---|---|",
    ]
    for card in cards:
        sizes = f"{card['parameters']:,} | {card['state']:,}"
        lines.append(f"| `{card['cell']}` | {sizes} | {card['step']:.2f} | {card['token']:.2f} |")
    note = (
        f"CPU, 1 thread, torch {torch.__version__}, minrl {minrl.__version__}; a step is one row's, in torch's "
        f"operations or kernels as the cell has them; training {BATCH} x {STEPS} with resets, both ways. Written by "
        "`python benchmarks/cell_cards.py`."
    )
    return "\n".join([*lines, "", note, ""])


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--table", type=Path, default=HERE / "cell_cards.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    minrl.tune_cpu()
    cards = measure(arguments.width, arguments.rounds)
    text = table(cards, arguments.width)
    print(text)
    arguments.table.write_text(text, encoding="utf-8")
    arguments.table.with_suffix(".json").write_text(json.dumps(cards, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
