"""Plots of a report side by side as one PNG, given matplotlib."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minrl.system.files import replacing

from .frame import Panel

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
_MARKERS = "os^vDPX*"

# Up to this number of x values each gets a tick.
_MAX_TICKS = 8


def draw(panels: Sequence[Panel], title: str, path: Path) -> bool:
    """Write the panels; False without matplotlib or panels."""
    if not panels or find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    looks = _looks(panels)
    shown: dict[str, Any] = {}
    for position, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), position)
        shown = {**_panel(axes, panel, looks), **shown}
    ordered = [name for name in looks if name in shown]
    ordered += [name for name in shown if name not in looks]
    figure.legend(
        [shown[name] for name in ordered], ordered, loc="outside lower center", ncols=min(4, len(ordered)),
        fontsize=8, frameon=False,
    )  # fmt: skip
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True


def _looks(panels: Sequence[Panel]) -> dict[str, dict[str, Any]]:
    """Choose the style of each curve, the same in all panels."""
    looks: dict[str, dict[str, Any]] = {}
    for is_dashed in (False, True):
        names = [n for panel in panels for n in panel.curves if (n in panel.dashed) == is_dashed]
        for index, name in enumerate(dict.fromkeys(names)):
            colour = _COLOURS[index % len(_COLOURS)]
            dashed = {"linestyle": "--", "linewidth": 1.0, "alpha": 0.8}
            looks[name] = {
                "color": colour,
                "marker": _MARKERS[index % len(_MARKERS)],
                **(dashed if is_dashed else {"linewidth": 2.0}),
            }
    return looks


def _panel(axes: Any, panel: Panel, looks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Draw a panel; return its curves and lines by label."""
    shown = {}
    for name, points in panel.curves.items():
        many = {} if len(points) < 30 else {"markevery": len(points) // 15}
        (shown[name],) = axes.plot(*zip(*points, strict=True), markersize=3.5, **looks[name], **many, clip_on=False)
    for index, (name, value) in enumerate(panel.lines.items()):
        shown[name] = axes.axhline(value, color="0.4", linewidth=1.0, linestyle=(0, (1, 1 + index)))
    if panel.logarithmic:
        _logarithmic(axes.set_xscale, axes.xaxis)
    places = sorted({x for points in panel.curves.values() for x, _ in points})
    if len(places) <= _MAX_TICKS and all(x == round(x) for x in places):
        axes.set_xticks(places)
    if panel.logarithmic == "xy":
        _logarithmic(axes.set_yscale, axes.yaxis)
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
    axes.set_ylim(*panel.limits)
    axes.set_title(panel.title, fontsize=10)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    return shown


def _logarithmic(set_scale: Callable[[str], None], axis: Any) -> None:
    """Set a logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())
