"""Parity and even pairs, two regular languages, beyond the training length.

A recurrence of positive decay cannot follow parity at every length in finite precision (Sarrof, Veitsman and Hahn
2024, arXiv 2405.17394, theorem 2), one with a decay in (-1, 1) can (Grazzi et al. 2024, arXiv 2411.12537); even pairs
is star-free, for which positive decay suffices. Tasks: Deletang et al. 2023, "Neural Networks and the Chomsky
Hierarchy" (arXiv 2207.02098), section 4.

Shapes: N sequences, T time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.agent import parameter_count

from .frame import Done, Experiment, Numbers, Panel, Part, Report, Request, Size
from .means import MISSING, mean_and_error, mean_curve
from .sequence_model import KNOWN_CELLS, SequenceModel, label
from .training import Training, train

# The seed of the test sequences: three numbers, where a training step has two.
_TEST = (0, 0, 1)


def parity(bits: Tensor) -> Tensor:
    """Label each prefix of (N, T) in {0, 1} with 1 if its number of ones is odd."""
    return bits.cumsum(1) % 2


def even_pairs(bits: Tensor) -> Tensor:
    """Label each prefix of (N, T) in {0, 1} with 1 if 01 and 10 together occur an even number of times.

    That is: if it ends as it began.
    """
    return (bits == bits[:, :1]).long()


@dataclass(frozen=True)
class Task:
    """Language, and the MLP that its models have beside their cells."""

    answer: Callable[[Tensor], Tensor]
    mlp: float  # hidden width of the MLPs over the width


# Parity needs a cell alone; even pairs compare its state with the last bit.
TASKS = {"parity": Task(parity, mlp=0.0), "even_pairs": Task(even_pairs, mlp=2.0)}


@dataclass(frozen=True)
class Config:
    """Lengths, model and training."""

    length: int  # the longest that is trained on
    test_length: int
    test_sequences: int
    width: int
    depth: int
    training: Training


SIZES: dict[Size, Config] = {
    "quick": Config(6, 12, 16, 8, 1, Training(4, 4, 1e-3, clip=1.0, evaluate_every=2)),
    "small": Config(
        40, 256, 2048, 32, 2,
        Training(1000, 32, 3e-3, clip=1.0, evaluate_every=250, weight_decay=0.0, warmup=0.05, decay="cosine"),
    ),
    "full": Config(
        40, 256, 2048, 128, 2,
        Training(20_000, 128, 1e-3, clip=1.0, evaluate_every=500, weight_decay=0.0, warmup=0.05, decay="cosine"),
    ),
}  # fmt: skip
# Ability of a cell to track parity at any length in finite precision.
PARITY_IN_THEORY = {
    "gru": "yes", "lstm": "yes", "slstm": "yes", "signed": "yes",
    "mingru": "no", "minlstm": "no", "mamba": "no", "mamba2": "no", "mlstm": "no", "qrnn": "no", "rglru": "no",
}  # fmt: skip


def learn(cell: str, task: str, seed: int, config: Config, device: str, name: str, unfinished: Path | None) -> Numbers:
    """Train one model; return its learning curve and its final accuracy at lengths 1, 2, … of the test."""
    torch.manual_seed(seed)
    options = {"context": config.test_length} if cell == "transformer" else {}
    model = SequenceModel(
        2, 2, cell, width=config.width, depth=config.depth, conv=0, mlp=TASKS[task].mlp, **options
    ).to(device)
    test = _bits(config.test_sequences, config.test_length, _TEST, device)
    batch_size = config.training.batch_size

    def loss(step: int) -> Tensor:
        bits = _bits(batch_size, config.length, (seed, step), device)
        return F.cross_entropy(model(bits).flatten(0, 1), TASKS[task].answer(bits).flatten())

    def evaluate() -> Mapping[str, float]:
        accuracies = _accuracies(model, test[: config.test_sequences // 8], task)
        return {f"accuracy_{length}": accuracies[length - 1] for length in (config.length, config.test_length)}

    curve = train(model, config.training, loss, evaluate, name=name, seed=seed, unfinished=unfinished)
    model.eval()
    return {
        "parameters": parameter_count(model),
        "curve": curve,
        "accuracy_by_length": _accuracies(model, test, task),
    }


def _bits(count: int, length: int, seed: tuple[int, ...], device: str) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (count, length))).to(device)


@torch.no_grad()
def _accuracies(model: SequenceModel, bits: Tensor, task: str) -> list[float]:
    """Return the accuracy in % over prefixes of length 1, 2, …, T."""
    named = torch.cat([model(rows).argmax(-1) for rows in bits.split(256)])
    found: list[float] = (100 * (named == TASKS[task].answer(bits)).double().mean(dim=0)).tolist()
    return found


def parts(request: Request) -> list[Part]:
    """List a part for each seed, task and cell."""
    config = SIZES[request.size]
    made = []
    for seed in request.seeds:
        for task in TASKS:
            for cell in request.cells:
                name = f"{_plain(task)}, {label(cell)}, seed {seed}"
                settings = request.settings(config, cell=cell, task=task, mlp=TASKS[task].mlp, seed=seed)
                kept = request.unfinished(settings)
                run = partial(learn, cell, task, seed, config, str(request.device), name, kept)
                made.append(Part(name, settings, run))
    return made


def _plain(task: str) -> str:
    return task.replace("_", " ")


def report(done: Sequence[Done]) -> Report:
    """Report a row for each cell, and the accuracy over the length for either task."""
    settings = done[0].settings
    lengths = (settings["length"], settings["test_length"])
    figures = (f"{_plain(task)} at {length}, %" for task in TASKS for length in lengths)
    head = ("cell", "parity in theory", "seeds", "parameters (parity)", *figures, "seconds a seed")
    cells = dict.fromkeys(part.settings["cell"] for part in done)
    rows = [_row([part for part in done if part.settings["cell"] == cell], lengths) for cell in cells]
    panels = tuple(_panel([part for part in done if part.settings["task"] == task], task, lengths) for task in TASKS)
    return Report(head, rows, _notes(settings), tuple(panel for panel in panels if panel.curves))


def _row(parts: Sequence[Done], lengths: tuple[int, int]) -> tuple[str, ...]:
    """Format the row of one cell."""
    by_task = {task: [part for part in parts if part.settings["task"] == task] for task in TASKS}
    cell, seeds = parts[0].settings["cell"], max(map(len, by_task.values()))
    figures = (_accuracy(of_task, length) for of_task in by_task.values() for length in lengths)
    return (
        label(cell),
        PARITY_IN_THEORY.get(cell, MISSING),
        str(seeds),
        f"{parts[0].numbers['parameters']:,}",
        *figures,
        f"{sum(part.numbers['curve'][-1]['seconds'] for part in parts) / seeds:.0f}",
    )


def _accuracy(parts: Sequence[Done], length: int) -> str:
    values = [part.numbers["accuracy_by_length"][length - 1] for part in parts]
    return mean_and_error(values, 1) if values else MISSING


def _panel(parts: Sequence[Done], task: str, lengths: tuple[int, int]) -> Panel:
    curves: dict[str, list[Sequence[tuple[float, float]]]] = {}
    for part in parts:
        points = list(enumerate(part.numbers["accuracy_by_length"], start=1))
        curves.setdefault(label(part.settings["cell"]), []).append(points)
    title = f"{_plain(task)}, trained on lengths up to {lengths[0]}"
    means = {name: mean_curve(of_cell) for name, of_cell in curves.items()}
    return Panel(title, "length", "accuracy (%)", means, {"chance": 50.0}, limits=(40.0, 100.0))


def _notes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    training = settings["training"]
    return (
        "Parity: is the number of ones odd? Even pairs: do 01 and 10 occur an even number of times, that is, does the "
        f"sequence end as it began? Trained on random bits of length {settings['length']}, where every prefix is an "
        f"example with its own answer, so on the lengths 1 to {settings['length']} alike; tested on the prefixes of "
        f"{settings['test_sequences']:,} other sequences of length {settings['test_length']}. Guessing gives 50 %. In "
        "the plot the curves of cells that are right at every length cover each other.",
        f"Layers: {settings['depth']}, of width {settings['width']}, each a cell with norm and residual, no "
        f"convolution but Mamba's own; {training['steps']:,} steps of {training['batch_size']} fresh sequences, AdamW "
        f"at {training['learning_rate']:g}, clip {training['clip']:g}, the same for every cell. For even pairs an MLP "
        f"of {TASKS['even_pairs'].mlp:g} times the width follows each cell, since the last bit is to be compared with "
        "the first one; parity needs a cell alone.",
        "The paper has no such experiment. In theory: whether the cell can track parity at every length in "
        "finite precision. A decay in (0, 1) cannot (Sarrof et al. 2024, arXiv 2405.17394, theorem 2), one in (-1, 1) "
        "can (Grazzi et al. 2024, arXiv 2411.12537), as can gates that depend on the hidden state.",
    )


EXPERIMENT = Experiment(
    title="Parity and even pairs beyond the length of training",
    sizes={
        "small": "2 layers of width 32, six cells, 1,000 steps each, 4 minutes",
        "full": "2 layers of width 128, 20,000 steps each: for a GPU",
    },
    parts=parts,
    report=report,
    cells=("gru", "lstm", "signed", "mingru", "minlstm", "mamba"),
    known_cells=KNOWN_CELLS,
)
