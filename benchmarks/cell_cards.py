"""A card for each cell: its size, what it costs against minGRU in one interleaved run, and which tasks it solves.

    python benchmarks/cell_cards.py [--cells mingru gru] [--out runs/cell_cards] [--table benchmarks/cell_cards.md]

Size and cost are of the cells alone, without a block around them, in their default options. A step is one call of
`step` for one row without gradients; a training token is a 16 x 512 scan with resets forward and backward, over its
number of tokens: ratios of least CPU times with one thread, and the allocator set to keep memory. Tasks are in
`benchmarks/cell_tasks.py`: one seed, the same steps for every cell, within the CPU seconds of `TASKS`, less than half
an hour of one core in all. Finished parts are kept in `--out` and skipped the next time.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from cell_tasks import TASKS, Task, within

import minrl
from minrl.agent import parameter_count
from minrl.bench.measure import Clock, clock_of, interleaved
from minrl.cells import CELLS, Cell
from minrl.reproduce.sequence_model import KNOWN_CELLS, VARIANTS
from minrl.system.files import replacing

HERE = Path(__file__).resolve().parent
BATCH, STEPS = 16, 512
CARDS = re.compile(r"(?:^\| .*\n|^\|---.*\n)+", re.MULTILINE)  # a page's table


def make(name: str, width: int) -> Cell:
    """Build a cell, or a variant such as "signed"."""
    family, options = VARIANTS.get(name, (name, {}))
    return CELLS[family](width, **options)


def step(cell: Cell) -> Callable[[], object]:
    """Return a call that makes one step of one row and carries the state."""
    x, state = torch.randn(1, cell.width), cell.initial_state(1)

    def run() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = cell.step(x, state)

    return run


def training(cell: Cell) -> Callable[[], object]:
    """Return a call that runs forward and backward over whole sequences with resets."""
    x = torch.randn(BATCH, STEPS, cell.width, requires_grad=True)
    reset, direction = torch.rand(BATCH, STEPS) < 0.01, torch.randn(BATCH, STEPS, cell.width)
    leaves = [x, *cell.parameters()]
    return lambda: torch.autograd.grad((cell.scan(x, None, reset)[0] * direction).sum(), leaves, allow_unused=True)


def costs(names: list[str], width: int, rounds: int) -> dict[str, Any]:
    """Measure the size of each cell, and its cost over minGRU's."""
    torch.manual_seed(0)
    cells = {name: make(name, width) for name in dict.fromkeys(["mingru", *names])}
    clock: Clock = clock_of(torch.device("cpu"))
    steps = interleaved({name: step(cell.eval()) for name, cell in cells.items()}, rounds, clock=clock)
    passes = {name: training(cell.train()) for name, cell in cells.items()}
    tokens = interleaved(passes, rounds, clock=clock, budget=5.0)
    return {
        name: {
            "parameters": parameter_count(cell),
            "state": cell.state_size,
            "step": steps[name].minimum / steps["mingru"].minimum,
            "token": tokens[name].minimum / tokens["mingru"].minimum,
        }
        for name, cell in cells.items()
    }


def kept(path: Path, settings: dict[str, Any], measure: Callable[[], Any]) -> Any:
    """Return the result of `measure`, from `path` if it was measured with the same settings."""
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["settings"] == settings:
            return record["found"]
    found = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "found": found}, indent=1) + "\n", encoding="utf-8")
    return found


def settings_of(name: str, task: Task) -> dict[str, Any]:
    """Return all settings that a score depends on."""
    return {"cell": name, "seconds": task.seconds, "training": asdict(task.training)}


def shown(found: dict[str, Any] | None, task: Task) -> str:
    """Format a score, bold if the task is solved, with a star if time ran out before the steps did."""
    if found is None:
        return "-"
    score = f"{found['score']:.1f}" if task.score.endswith("%") else f"{found['score']:.2f}"
    score = f"**{score}**" if found["score"] >= task.bar else score
    return score + "\\*" * (found["steps"] < task.training.steps)


def labelled(name: str) -> str:
    """Return a cell's name on the command line, a variant's with its options."""
    family, options = VARIANTS.get(name, (name, {}))
    return ", ".join([f"`{family}`", *(f"`{option}={str(value).lower()}`" for option, value in options.items())])


def table(cards: dict[str, Any], width: int) -> str:
    """Format the cards as Markdown."""
    heads = [f"{name}, {task.score.removeprefix('accuracy, ')}" for name, task in TASKS.items()]
    lines = [
        "# Cells",
        "",
        f"| cell | parameters | state size | step ÷ minGRU's | token ÷ minGRU's | {' | '.join(heads)} | solved |",
        "|---|---|---|---|---|" + "---|" * (len(heads) + 1),
    ]
    for name, card in cards.items():
        found = card["tasks"]
        scores = [shown(found.get(key), task) for key, task in TASKS.items()]
        solved = sum(key in found and found[key]["score"] >= task.bar for key, task in TASKS.items())
        sizes = f"{card['parameters']:,} | {card['state']:,} | {card['step']:.2f} | {card['token']:.2f}"
        lines.append(f"| {labelled(name)} | {sizes} | {' | '.join(scores)} | {solved} of {len(found)} |")
    bars = ", ".join(f"{name}: {task.bar:g}" for name, task in TASKS.items())
    note = (
        f"Size and cost: the cell alone, width {width}, default options where none is named; `rwkv4` and "
        "`rwkv6` are time mixing without channel mixing, `sru` has no v_f and v_r. A "
        f"step is one row's, a training token one of {BATCH} x {STEPS} with resets, forward and backward; CPU, 1 "
        "thread. Tasks: one seed, default options (a Transformer sees all of a sequence in the first two, 20 steps a "
        f"layer in the others). Bold: solved, from this score on: {bars}. \\*: the budget of CPU seconds ended before "
        "the steps did, so that a score without bold may be one of too few steps. "
        "Parity is trained on lengths up to 40 and tested at 256, two layers of width 32, no convolution; selective "
        "copy has 4 tokens among 16 symbols of noise, three layers of width 64, no convolution; the others are "
        "environments of `minrl.envs`, learned by cloning a policy that is right, two of the library's default blocks "
        f"of width 64 (a convolution also before cells with their own), "
        f"and scored by acting in 256 new episodes. minrl {minrl.__version__}, torch {torch.__version__}. "
        "Written by `python benchmarks/cell_cards.py`."
    )
    return "\n".join([*lines, "", note, ""])


def summary(cards: dict[str, Any]) -> str:
    """Return the cards in short, with the names of the tasks that each cell solves: the table of docs/cells.md."""
    lines = [
        "| cell | parameters | state | step ÷ minGRU's | training token ÷ minGRU's | solves within its budget |",
        "|---|---|---|---|---|---|",
    ]
    for name, card in cards.items():
        solved = [
            key.partition(",")[0].removesuffix(" 20")
            for key, task in TASKS.items()
            if key in card["tasks"] and card["tasks"][key]["score"] >= task.bar
        ]
        sizes = f"{card['parameters']:,} | {card['state']:,} | {card['step']:.2f} | {card['token']:.2f}"
        lines.append(f"| {labelled(name)} | {sizes} | {', '.join(solved)} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure unfinished parts, print and write the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=KNOWN_CELLS, default=list(KNOWN_CELLS))
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--width", type=int, default=128, help="of the cells whose cost is measured")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("runs/cell_cards"))
    parser.add_argument("--table", type=Path, default=HERE / "cell_cards.md")
    parser.add_argument("--page", type=Path, help="a page whose table of cards is replaced, such as docs/cells.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    minrl.tune_cpu()
    names, width, rounds = arguments.cells, arguments.width, arguments.rounds
    settings = {"cells": names, "width": width, "rounds": rounds}
    of_cost = kept(arguments.out / "costs.json", settings, lambda: costs(names, width, rounds))
    cards = {name: {**of_cost[name], "tasks": {}} for name in names}
    for key in arguments.tasks:
        for name in names:
            path = arguments.out / f"{key}-{name}.json".replace(" ", "_").replace(",", "")
            task = TASKS[key]
            found = kept(path, settings_of(name, task), lambda task=task, name=name: asdict(within(task, name)))
            cards[name]["tasks"][key] = found
    text = table(cards, width)
    print(text)
    with replacing(arguments.table) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with replacing(arguments.table.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(cards, indent=1) + "\n", encoding="utf-8")
    if arguments.page is not None:
        page = arguments.page.read_text(encoding="utf-8")
        with replacing(arguments.page) as temporary:
            temporary.write_text(CARDS.sub(lambda _: summary(cards), page, count=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
