"""Training time and peak memory of a layer against the length of sequences (arXiv 2410.01201, section 4.1, figure 1).

Shapes: B batch, T time, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from minrl.bench.results import Settings

from .frame import Done, Experiment, Numbers, Panel, Part, Report, Request, Size
from .layers import KNOWN_LAYERS, layer_label, training_pass
from .means import MISSING
from .peak_memory import peaks


@dataclass(frozen=True)
class Config:
    """Measured sizes: batch B, width D, every length T, and the rounds per layer."""

    batch: int
    width: int
    lengths: tuple[int, ...]
    rounds: int
    budget: float  # seconds for all rounds of a layer


# The paper's batch size is 64; it does not state the width of its layers.
SIZES: dict[Size, Config] = {
    "quick": Config(8, 32, (64, 128), 2, 0.1),
    "small": Config(64, 64, (64, 256, 512, 1024, 4096), 7, 5.0),
    "full": Config(64, 64, (64, 128, 256, 512, 1024, 2048, 4096), 15, 60.0),
}
# Time over the time of minGRU, LSTM's over minLSTM's: from milliseconds at T = 512 and 4096 and the factors.
PAPER_TIME = {
    512: {"mingru": "1 (2.72 ms)", "minlstm": "1.09", "mamba": "1.00", "gru_loop": "175", "lstm_loop": "235"},
    4096: {"mingru": "1 (3.25 ms)", "minlstm": "1.05", "mamba": "0.97", "gru_loop": "1324", "lstm_loop": "1361"},
}
# minGRU and minLSTM took 88 % more than GRU and LSTM, Mamba 56 % more than minGRU.
PAPER_MEMORY = {"mingru": "1", "mamba": "1.56", "gru_loop": "0.53", "lstm_loop": "0.53"}


def times(config: Config, steps: int, layers: Sequence[str], threads: int, device: str) -> Numbers:
    """Measure least and median seconds of a training pass of each layer, interleaved."""
    torch.manual_seed(0)
    settings = Settings(torch.device(device), (threads,), rounds=config.rounds)
    shape = (config.batch, steps, config.width)
    calls = {layer: training_pass(layer, shape, settings) for layer in layers}
    found = settings.times(calls, config.rounds, budget=config.budget)
    return {
        layer: {"minimum_seconds": time.minimum, "median_seconds": time.median, "rounds": len(time.seconds)}
        for layer, time in found.items()
    }


def memory(config: Config, layer: str, threads: int, device: str) -> Numbers:
    """Measure the peak bytes of a training pass by length; if that is impossible, return the reason."""
    try:
        found = peaks(layer, config.batch, config.lengths, config.width, threads=threads, device=device)
    except RuntimeError as error:
        return {"bytes": {}, "reason": str(error)}
    return {"bytes": {str(steps): value for steps, value in found.items()}}


def parts(request: Request) -> list[Part]:
    """List a part for each length with the times of all layers, interleaved; then the memory of each layer."""
    config, layers = SIZES[request.size], request.cells
    where = request.threads, str(request.device)
    shape = {"batch": config.batch, "width": config.width}
    effort = {"rounds": config.rounds, "budget": config.budget}
    return [
        Part(
            f"time, T = {steps}",
            request.settings(measure="time", length=steps, layers=layers, **shape, **effort),
            partial(times, config, steps, layers, *where),
        )
        for steps in config.lengths
    ] + [
        Part(
            f"memory of {layer_label(layer)}",
            request.settings(measure="memory", lengths=config.lengths, layer=layer, **shape),
            partial(memory, config, layer, *where),
        )
        for layer in layers
    ]


def report(done: Sequence[Done]) -> Report:
    """Report a row for each length and layer, and both plots over the lengths."""
    seconds, memories = _seconds(done), _bytes(done)
    shown = sorted({steps for _, steps in [*seconds, *memories]})
    layers = list(dict.fromkeys(layer for layer, _ in [*seconds, *memories]))
    rows = [_row(layer, steps, seconds, memories) for steps in shown for layer in layers]
    first = done[0].settings
    notes = (
        f"B = {first['batch']}, D = {first['width']}, forward and backward to input and weights, no episode "
        "ends. A time is the least of several, all layers of a length interleaved; with one thread it is "
        "CPU time. Memory is the rise of resident memory in a process of its own. GRU and LSTM are this library's "
        "cells, which run torch's own layers or a compiled loop; GRUCell and LSTMCell are torch's cells called at "
        "every step, as in the paper. LSTM's ratios are to minLSTM, all others to minGRU.",
        "The paper's figures are from a T4 GPU, where such a loop waits for a kernel launch at every step and "
        "operations that run in parallel cost nearly the same at every length. On a CPU both take time in "
        "proportion to T. Its ratios of memory are given for GRU and LSTM as a whole, not for each length.",
    )
    head = (
        "T", "layer", "milliseconds", "time ratio", "the paper's (figure 1, T4)", "peak MiB", "memory ratio",
        "the paper's (section 4.1)",
    )  # fmt: skip
    panels = (
        _panel("Training time of a layer", "milliseconds", seconds, 1e3),
        _panel("Peak memory of a layer in training", "MiB", memories, 2**-20),
    )
    return Report(head, rows, notes, [panel for panel in panels if panel.curves])


Values = dict[tuple[str, int], float]


def _seconds(done: Sequence[Done]) -> Values:
    timed = [part for part in done if part.settings["measure"] == "time"]
    return {
        (layer, part.settings["length"]): found["minimum_seconds"]
        for part in timed
        for layer, found in part.numbers.items()
    }


def _bytes(done: Sequence[Done]) -> Values:
    measured = [part for part in done if part.settings["measure"] == "memory"]
    return {
        (part.settings["layer"], int(steps)): value
        for part in measured
        for steps, value in part.numbers["bytes"].items()
    }


def _row(layer: str, steps: int, seconds: Values, memories: Values) -> tuple[str, ...]:
    return (
        str(steps),
        layer_label(layer),
        _shown(seconds, layer, steps, 1e3),
        _ratio(seconds, layer, steps),
        PAPER_TIME.get(steps, {}).get(layer, MISSING),
        _shown(memories, layer, steps, 2**-20),
        _ratio(memories, layer, steps),
        PAPER_MEMORY.get(layer, MISSING) if steps in PAPER_TIME else MISSING,
    )


def _shown(values: Values, layer: str, steps: int, scale: float) -> str:
    if (layer, steps) not in values:
        return MISSING
    value = values[layer, steps] * scale
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(values: Values, layer: str, steps: int) -> str:
    """Format the ratio to the minimal cell: minLSTM for LSTM, minGRU for all others."""
    over, under = (layer, steps), ("minlstm" if layer.startswith("lstm") else "mingru", steps)
    # A small layer may fit into memory that its process already had.
    return f"{values[over] / values[under]:.2f}" if over in values and values.get(under) else MISSING


def _panel(title: str, unit: str, values: Values, scale: float) -> Panel:
    curves: dict[str, list[tuple[float, float]]] = {}
    for (layer, steps), value in sorted(values.items(), key=lambda item: item[0][1]):
        curves.setdefault(layer_label(layer), []).append((steps, value * scale))
    return Panel(title, "sequence length T", unit, curves, logarithmic="xy")


EXPERIMENT = Experiment(
    title="Training time and memory against sequence length",
    sizes={
        "small": "B = 64, D = 64, T = 64 to 4096, 5 minutes",
        "full": "more lengths and rounds, half an hour",
    },
    parts=parts,
    report=report,
    cells=("mingru", "minlstm", "mamba", "gru", "lstm", "gru_loop", "lstm_loop"),
    known_cells=KNOWN_LAYERS,
)
