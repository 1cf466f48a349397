"""Plots of a benchmark as PNG (given matplotlib): time and memory over T, step latency."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minrl.bench import latency, length
from minrl.bench.results import Point
from minrl.runs.figures import line_style
from minrl.system.files import replacing

_LAYER = f"B={length.BATCH}, D={length.WIDTH}"
# Title, shapes, x label and y label of each plot.
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
        folder: that exists.
        machine: shown below every title.
    """
    if find_spec("matplotlib") is None:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    # The same colour and marker for a curve in every plot.
    names = dict.fromkeys(point.curve for point in points)
    looks = {name: line_style(index) for index, name in enumerate(names)}
    for plot, (title, note, xlabel, ylabel) in TITLES.items():
        curves = _curves(points, plot)
        if not curves:
            continue
        figure = Figure(figsize=(7, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw(axes, curves, looks)
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


def _draw(axes: Any, curves: dict[str, list[tuple[float, float]]], looks: dict[str, dict[str, Any]]) -> None:
    """Draw curves over two logarithmic axes."""
    for name, values in curves.items():
        width = 2.5 if name in _OURS else 1.3
        axes.plot(*zip(*sorted(values), strict=True), label=name, **(looks[name] | {"linewidth": width}))
    places = sorted({x for values in curves.values() for x, _ in values})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
