"""Time and memory over T and step latency as PNG, where matplotlib is there."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minrl.bench import latency, length
from minrl.bench.figures import Point
from minrl.files import replacing

_LAYER = f"B={length.BATCH}, D={length.WIDTH}"
# Of each plot: title, shapes, label of x, label of y.
TITLES = {
    length.RUNTIME: ("Time of a layer, forward + backward", _LAYER, "sequence length T", "milliseconds"),
    length.MEMORY: ("Peak memory of a layer, forward + backward", _LAYER, "sequence length T", "MiB"),
    latency.PLOT: (f"One step of {latency.DEPTH} layers", f"D={latency.WIDTH}", "batch size B", "microseconds"),
}
_OURS = ("minGRU", "minLSTM")


def draw(points: Sequence[Point], folder: Path, machine: str) -> list[Path]:
    """Write `runtime.png`, `memory.png` and `latency.png`, those that have points; none without matplotlib.

    Args:
        points: of all plots.
        folder: must be there.
        machine: shown under every title.
    """
    if find_spec("matplotlib") is None:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    for plot, (title, note, xlabel, ylabel) in TITLES.items():
        curves = _curves(points, plot)
        if not curves:
            continue
        figure = Figure(figsize=(7, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        (_bars if plot == latency.PLOT else _lines)(axes, curves)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(f"{title}\n", fontsize=12, loc="left")
        axes.text(0, 1.02, f"{note}; {machine}", transform=axes.transAxes, fontsize=8, color="0.35")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        path = folder / f"{plot}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=130)
        written.append(path)
    return written


def _curves(points: Sequence[Point], plot: str) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        if point.plot == plot:
            curves.setdefault(point.curve, []).append((point.x, point.y))
    return curves


def _lines(axes: Any, curves: dict[str, list[tuple[float, float]]]) -> None:
    for name, values in curves.items():
        ours = name in _OURS
        axes.plot(
            *zip(*sorted(values), strict=True),
            marker="o", markersize=4, linewidth=2.5 if ours else 1.3, linestyle="-" if ours else "--", label=name,
        )  # fmt: skip
    lengths = sorted({x for values in curves.values() for x, _ in values})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{x:g}" for x in lengths])
    axes.grid(alpha=0.3, which="both", linewidth=0.5)


def _bars(axes: Any, curves: dict[str, list[tuple[float, float]]]) -> None:
    batches = sorted({x for values in curves.values() for x, _ in values})
    width = 0.85 / len(curves)
    for index, (name, values) in enumerate(curves.items()):
        heights = dict(values)
        places = [i + (index - (len(curves) - 1) / 2) * width for i, x in enumerate(batches) if x in heights]
        bars = axes.bar(places, [heights[x] for x in batches if x in heights], width * 0.92, label=name)
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(batches)), [f"{x:g}" for x in batches])
    axes.grid(alpha=0.3, axis="y", linewidth=0.5)
    axes.margins(y=0.12)
