"""Character-level language model of Shakespeare (arXiv 2410.01201, section 4.2 and figure 2).

Shapes: B batch, T time, V characters.
"""

import argparse
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.agent import parameter_count

from .frame import Done, Experiment, Numbers, Panel, Part, Report, Request, Size
from .means import MISSING, mean_and_error, mean_curve
from .sequence_model import KNOWN_CELLS, SequenceModel, label
from .text import SHIPPED, Text, read
from .training import Training, train


@dataclass(frozen=True)
class Config:
    """Model and training."""

    width: int
    depth: int
    heads: int  # of the Transformer
    length: int  # characters of a row
    training: Training
    expand: int = 2
    dropout: float = 0.2


def _training(steps: int, batch_size: int, evaluate_every: int) -> Training:
    return Training(steps, batch_size, learning_rate=1e-3, clip=0.25, evaluate_every=evaluate_every)


SIZES: dict[Size, Config] = {
    "quick": Config(16, 1, 2, 16, _training(4, 4, 2)),
    "small": Config(96, 3, 4, 64, _training(800, 32, 25)),
    # The paper does not state the length of its rows.
    "full": Config(384, 3, 6, 256, _training(5000, 64, 25)),
}
# Test loss and the step of it, figure 2.
PAPER = {"mingru": (1.548, 575), "minlstm": (1.555, 625), "mamba": (1.575, 400), "transformer": (1.547, 2000)}


def cell_options(cell: str, config: Config) -> dict[str, Any]:
    """Return a cell's options beside width, depth and dropout: the paper's convolution unless the cell has its own."""
    if cell == "transformer":
        return {"conv": 0, "context": config.length, "heads": config.heads}
    if cell in ("mamba", "mamba2"):
        return {"conv": 0}
    return {"expand": config.expand} if cell in ("mingru", "minlstm", "signed", "gru", "lstm") else {}


def learn(cell: str, seed: int, config: Config, text: Text, device: str, name: str, unfinished: Path | None) -> Numbers:
    """Train one model; return its learning curve and its number of parameters."""
    torch.manual_seed(seed)
    options = cell_options(cell, config)
    model = SequenceModel(
        text.vocabulary, text.vocabulary, cell,
        width=config.width, depth=config.depth, dropout=config.dropout, **options,
    ).to(device)  # fmt: skip
    batch_size, steps = config.training.batch_size, config.length
    rows = text.test_rows(steps)

    def loss(step: int) -> Tensor:
        return _loss(model, text.batch(batch_size, steps, seed, step), device)

    def evaluate() -> Mapping[str, float]:
        pairs = zip(*(part.split(batch_size) for part in rows), strict=True)
        total = sum(_loss(model, pair, device).item() * len(pair[0]) for pair in pairs)
        return {"test_loss": total / len(rows[0])}

    curve = train(model, config.training, loss, evaluate, name=name, seed=seed, unfinished=unfinished)
    return {"parameters": parameter_count(model), "curve": curve}


def _loss(model: SequenceModel, batch: tuple[Tensor, Tensor], device: str) -> Tensor:
    seen, wanted = (part.to(device) for part in batch)
    return F.cross_entropy(model(seen).flatten(0, 1), wanted.flatten())


def parts(request: Request) -> list[Part]:
    """List a part for each seed and cell."""
    config = SIZES[request.size]
    path: Path = request.options.get("text") or SHIPPED
    text = read(path, config.length)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    made = []
    for seed in request.seeds:
        for cell in request.cells:
            name = f"{label(cell)}, seed {seed}"
            settings = request.settings(config, cell=cell, seed=seed, text=path.name, text_sha256=digest)
            kept = request.unfinished(settings)
            made.append(Part(name, settings, partial(learn, cell, seed, config, text, str(request.device), name, kept)))
    return made


def report(done: Sequence[Done]) -> Report:
    """Report a row for each cell, and plot the losses over steps and over seconds."""
    by_cell: dict[str, list[Done]] = {}
    for part in done:
        by_cell.setdefault(part.settings["cell"], []).append(part)
    level = _level(done)
    head = (
        "cell", "seeds", "parameters", "best test loss", "at step", "last test loss", f"steps to {level:.2f}",
        f"seconds to {level:.2f}", "seconds in all", "the paper's best @ step (figure 2)",
    )  # fmt: skip
    over_steps, over_seconds = (_curves(by_cell, x) for x in ("step", "seconds"))
    dashed = frozenset(name for name in over_steps if name.endswith("training"))
    settings = done[0].settings
    limits = {f"the paper's {label(c)}": PAPER[c][0] for c in by_cell if c in PAPER and settings["size"] == "full"}
    panels = (
        Panel("over steps", "gradient steps", "loss (nats a character)", over_steps, limits, dashed),
        Panel("over time", "seconds of training", "loss (nats a character)", over_seconds, limits, dashed, "x"),
    )
    return Report(head, [_row(cell, parts, level) for cell, parts in by_cell.items()], _notes(settings), panels)


def _level(done: Sequence[Done]) -> float:
    """Return the lowest test loss, in hundredths, that every model reached."""
    best: list[float] = [min(record["test_loss"] for record in part.numbers["curve"]) for part in done]
    return math.ceil(100 * max(best)) / 100


def _row(cell: str, parts: Sequence[Done], level: float) -> tuple[str, ...]:
    curves = [part.numbers["curve"] for part in parts]
    best = [min(curve, key=lambda record: record["test_loss"]) for curve in curves]
    reached = [next(record for record in curve if record["test_loss"] <= level) for curve in curves]
    about = "~" if cell == "transformer" else ""
    return (
        label(cell),
        str(len(parts)),
        f"{parts[0].numbers['parameters']:,}",
        mean_and_error([record["test_loss"] for record in best], 3),
        mean_and_error([record["step"] for record in best], 0),
        mean_and_error([curve[-1]["test_loss"] for curve in curves], 3),
        mean_and_error([record["step"] for record in reached], 0),
        mean_and_error([record["seconds"] for record in reached], 1),
        mean_and_error([curve[-1]["seconds"] for curve in curves], 1),
        f"{PAPER[cell][0]} @ {about}{PAPER[cell][1]}" if cell in PAPER else MISSING,
    )


def _curves(by_cell: Mapping[str, Sequence[Done]], x: str) -> dict[str, list[tuple[float, float]]]:
    """Average test and training loss of each cell over seeds."""
    curves = {}
    for key, suffix in (("test_loss", "test"), ("train_loss", "training")):
        for cell, parts in by_cell.items():
            lines = [[(record[x], record[key]) for record in part.numbers["curve"]] for part in parts]
            curves[f"{label(cell)}, {suffix}"] = mean_curve(lines)
    return curves


def _notes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    training = settings["training"]
    model = (
        f"Layers: {settings['depth']}, of width {settings['width']} (expansion {settings['expand']}, dropout "
        f"{settings['dropout']}); {training['steps']} steps of AdamW at {training['learning_rate']}, clip "
        f"{training['clip']}, {training['batch_size']} rows of {settings['length']} characters of {settings['text']}; "
        "the last tenth of the text is the test, in rows of the same length that start from the zero state. The "
        "Transformer attends to the whole row. minGRU and minLSTM follow the paper's convolution, Mamba has its own. "
        "The training loss is the mean since the last evaluation, with dropout; times exclude evaluations."
    )
    if settings["size"] == "full":
        return (model, f"The paper does not state the length of its rows; {settings['length']} is our choice.")
    return (
        model,
        "The paper's model has 3 layers of width 384 and takes 5,000 steps of 64 rows of a longer text (`--full --text "
        "FILE`). Losses on another text are not comparable with the paper's; the order of the cells, and the steps "
        "that one needs relative to another, are.",
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the text."""
    parser.add_argument(
        "--text", metavar="FILE", type=Path, help="UTF-8 text to train on (default: As You Like It, shipped)"
    )


EXPERIMENT = Experiment(
    title="Characters of Shakespeare",
    sizes={
        "small": "3 layers of width 96, 800 steps each, 12 minutes",
        "full": "3 layers of width 384, 5,000 steps each: for a GPU, on one core 15 hours and more a cell",
    },
    parts=parts,
    report=report,
    cells=("mingru", "minlstm", "mamba", "transformer"),
    known_cells=KNOWN_CELLS,
    add_flags=add_flags,
)
