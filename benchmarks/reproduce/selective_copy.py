"""Selective copying by depth (arXiv 2410.01201, section 4.1 and table 1).

Tokens lie at random places in noise; at the markers that follow they must be named in order. The task is that of Mamba
(Gu and Dao 2023, arXiv 2312.00752, section 4.1.1).

Shapes: N sequences, T time, M tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.agent import parameter_count
from minrl.cells import CELLS

from .frame import Done, Experiment, Numbers, Panel, Part, Report, Request, Size
from .means import MISSING, mean_and_error, mean_curve
from .sequence_model import KNOWN_CELLS, VARIANTS, SequenceModel, label
from .training import Training, train

NOISE = 0
# The seed of the test sequences: three numbers, where a training step has two.
_TEST = (0, 0, 1)


@dataclass(frozen=True)
class Config:
    """Task, model and training."""

    noise: int  # symbols between which the tokens lie
    tokens: int
    vocabulary: int  # noise, marker and the kinds of tokens
    width: int
    expand: int
    dropout: float
    test_sequences: int
    training: Training
    depths: tuple[int, ...] = (1, 2, 3)


SIZES: dict[Size, Config] = {
    "quick": Config(8, 2, 5, 8, 2, 0.1, 16, Training(4, 4, 1e-3, clip=1.0, evaluate_every=2)),
    "small": Config(
        32, 8, 16, 64, 2, 0.0, 1024,
        Training(3000, 32, 3e-3, clip=1.0, evaluate_every=250, weight_decay=0.0, warmup=0.05, decay="cosine"),
    ),
    "full": Config(
        4096, 16, 16, 64, 6, 0.1, 1024, Training(400_000, 64, 1e-4, clip=1.0, evaluate_every=2000, weight_decay=0.0)
    ),
}  # fmt: skip
# Accuracy in per cent by depth, table 1.
PAPER = {"mingru": {1: 37.0, 2: 96.8, 3: 99.5}, "minlstm": {1: 37.6, 2: 85.7, 3: 96.0}}
# Published by others with layers of state space models, table 2.
OTHERS = {"S6": 97.0, "S4": 18.3}


def sequences(
    count: int, noise: int, tokens: int, vocabulary: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw symbols (N, T), T = noise + 2 M, and the tokens in order (N, M), the targets of the last M steps.

    Symbol 0 is noise, the last of the vocabulary the marker; the others are tokens, drawn evenly at places drawn
    evenly.
    """
    context = noise + tokens
    content = generator.integers(1, vocabulary - 1, (count, tokens))
    places = np.sort(np.argsort(generator.random((count, context)), axis=1)[:, :tokens], axis=1)
    symbols = np.full((count, context + tokens), NOISE)
    np.put_along_axis(symbols, places, content, axis=1)
    symbols[:, context:] = vocabulary - 1
    return torch.from_numpy(symbols), torch.from_numpy(content)


def cell_options(cell: str, config: Config) -> dict[str, Any]:
    """Return a cell's options beside width, depth and dropout: the expansion if it has one."""
    if cell == "transformer":
        return {"context": config.noise + 2 * config.tokens}
    return (
        {"expand": config.expand} if "expand" in signature(CELLS[VARIANTS.get(cell, (cell, {}))[0]]).parameters else {}
    )


def learn(cell: str, depth: int, seed: int, config: Config, device: str, name: str, unfinished: Path | None) -> Numbers:
    """Train one model; return its learning curve, and its final accuracy for each of the M tokens."""
    torch.manual_seed(seed)
    model = SequenceModel(
        config.vocabulary, config.vocabulary, cell,
        width=config.width, depth=depth, conv=0, mlp=0, dropout=config.dropout, **cell_options(cell, config),
    ).to(device)  # fmt: skip
    test = _drawn(config, config.test_sequences, _TEST, device)
    batch_size = config.training.batch_size

    def loss(step: int) -> Tensor:
        symbols, wanted = _drawn(config, batch_size, (seed, step), device)
        return F.cross_entropy(model(symbols)[:, -config.tokens :].flatten(0, 1), wanted.flatten())

    def evaluate() -> Mapping[str, float]:
        return {"accuracy": 100 * _right(model, test, batch_size).mean().item()}

    curve = train(model, config.training, loss, evaluate, name=name, seed=seed, unfinished=unfinished)
    model.eval()
    by_token = 100 * _right(model, test, batch_size).mean(dim=0)
    return {"parameters": parameter_count(model), "curve": curve, "accuracy_by_token": by_token.tolist()}


def _drawn(config: Config, count: int, seed: tuple[int, ...], device: str) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    symbols, wanted = sequences(count, config.noise, config.tokens, config.vocabulary, generator)
    return symbols.to(device), wanted.to(device)


@torch.no_grad()
def _right(model: SequenceModel, test: tuple[Tensor, Tensor], batch_size: int) -> Tensor:
    """Return 1 or 0 for each token (N, M) that is predicted right or wrong."""
    pairs = zip(*(part.split(batch_size) for part in test), strict=True)
    return torch.cat([(model(s)[:, -w.shape[1] :].argmax(-1) == w).double() for s, w in pairs])


def parts(request: Request) -> list[Part]:
    """List a part for each seed, cell and depth."""
    config = SIZES[request.size]
    made = []
    for seed in request.seeds:
        for cell in request.cells:
            for depth in config.depths:
                name = f"{label(cell)}, {_layers(depth)}, seed {seed}"
                settings = request.settings(config, cell=cell, depth=depth, seed=seed)
                kept = request.unfinished(settings)
                run = partial(learn, cell, depth, seed, config, str(request.device), name, kept)
                made.append(Part(name, settings, run))
    return made


def _layers(depth: int) -> str:
    return f"{depth} layer" + "s" * (depth > 1)


def report(done: Sequence[Done]) -> Report:
    """Report a row for each cell and depth; plot the accuracies by depth and over the steps."""
    models: dict[tuple[str, int], list[Done]] = {}
    for part in done:
        models.setdefault((part.settings["cell"], part.settings["depth"]), []).append(part)
    head = (
        "cell", "layers", "seeds", "parameters", "accuracy, %", "of the first token, %", "of the last token, %",
        "seconds in all", "the paper's accuracy, % (table 1)",
    )  # fmt: skip
    rows = [_row(cell, depth, parts) for (cell, depth), parts in models.items()]
    rows += [(name, *[MISSING] * (len(head) - 2), f"{value} (table 2)") for name, value in OTHERS.items()]
    return Report(head, rows, _notes(done[0].settings), _panels(models))


def _row(cell: str, depth: int, parts: Sequence[Done]) -> tuple[str, ...]:
    by_token = [part.numbers["accuracy_by_token"] for part in parts]
    return (
        label(cell),
        str(depth),
        str(len(parts)),
        f"{parts[0].numbers['parameters']:,}",
        mean_and_error([part.numbers["curve"][-1]["accuracy"] for part in parts], 1),
        mean_and_error([accuracies[0] for accuracies in by_token], 1),
        mean_and_error([accuracies[-1] for accuracies in by_token], 1),
        mean_and_error([part.numbers["curve"][-1]["seconds"] for part in parts], 1),
        str(PAPER.get(cell, {}).get(depth, MISSING)),
    )


def _panels(models: Mapping[tuple[str, int], Sequence[Done]]) -> tuple[Panel, ...]:
    by_depth: dict[str, list[tuple[float, float]]] = {}
    over_steps = {}
    for (cell, depth), parts in models.items():
        curves = [[(record["step"], record["accuracy"]) for record in part.numbers["curve"]] for part in parts]
        over_steps[f"{label(cell)}, {_layers(depth)}"] = mean_curve(curves)
        by_depth.setdefault(label(cell), []).append((depth, over_steps[f"{label(cell)}, {_layers(depth)}"][-1][1]))
    papers = {f"the paper's {label(cell)}": list(PAPER[cell].items()) for cell in PAPER if label(cell) in by_depth}
    published = {f"the paper's {name}": value for name, value in OTHERS.items()}
    y, limits = "accuracy (%)", (0.0, 100.0)
    return (
        Panel("by depth", "layers", y, {**by_depth, **papers}, published, frozenset(papers), limits=limits),
        Panel("over steps", "gradient steps", y, over_steps, limits=limits),
    )


def _notes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    training, kinds = settings["training"], settings["vocabulary"] - 2
    notes = (
        f"{settings['tokens']} tokens of {kinds} kinds among {settings['noise']} symbols of noise, then "
        f"{settings['tokens']} markers at which the tokens must be named in order. Accuracy: share of tokens "
        f"named in {settings['test_sequences']:,} sequences that no model trains on; guessing gives {100 / kinds:.1f} "
        f"%. Recurrent layers with norm and residual, no convolution, no MLP: width {settings['width']}, expansion "
        f"{settings['expand']}, dropout {settings['dropout']}; {training['steps']:,} steps of {training['batch_size']} "
        f"fresh sequences, AdamW at {training['learning_rate']:g}, clip {training['clip']:g}, the same for every "
        "depth.",
        "The gates of one layer depend on the symbol, not on the number of tokens before it: it weights a token by "
        "what followed, and the markers read one mixture of all, in which only the last token stands out. The second "
        "layer's gates depend on what the first has counted.",
    )
    if settings["size"] == "full":
        return (*notes, "The hold biases on the gates are this library's; the released code trains at 3e-4.")
    full = SIZES["full"]
    return (
        *notes,
        f"The paper's task (`--full`) has {full.tokens} tokens among {full.noise:,} symbols of noise, its models "
        f"expansion {full.expand} and dropout {full.dropout}, and {full.training.steps:,} steps of "
        f"{full.training.batch_size} at {full.training.learning_rate:g}. Here the rate warms up and falls, and the "
        "gates start with this library's hold biases. The effect of depth is comparable with the paper's.",
    )


EXPERIMENT = Experiment(
    title="Selective copying by depth",
    sizes={
        "small": "8 tokens among 32 of noise, 1 to 3 layers, 3,000 steps each, 5 minutes",
        "full": "16 tokens among 4,096 of noise, 400,000 steps each: for a GPU",
    },
    parts=parts,
    report=report,
    cells=("mingru", "minlstm"),
    known_cells=KNOWN_CELLS,
)
