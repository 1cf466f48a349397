"""Shared style of all figures (colours, markers, panels), written as PNG and SVG or embedded in an HTML page.

The colours can be told apart by those who see red and green alike, and every method has a marker of its own.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.system.files import replacing

Array = npt.NDArray[np.float64]

INK = "#1b1f24"  # text; a page sets its own colour by CSS
# Axes and methods: contrast of 3 or more on white, and on the dark ground of a page (WCAG 2.2, 1.4.11).
GREY = "#767e87"
COLOURS = ("#0072b2", "#d55e00", "#00845f", "#b3569a", "#8f6b00", "#3b8ec2", "#8560b5", "#6e7a86")
# None is a diamond, which stands for published scores.
MARKERS = "osp^vPX*"
WIDTH, HEIGHT = 4.4, 3.0  # of a panel, in inches
_COLUMNS = 3
_LINE, _MARKER = 1.8, 4.5  # points: width of a curve, size of its markers
_RIM, _MOST_RIMS = 2.4, 3  # by which a curve is wider than the one on it, and how often
_MAX_MARKERS = 25  # of a curve
_LABEL, _ROW = 0.175, 0.27  # inches that a line of a direct label takes, and a name beside an axis
MAX_NAME = 20  # characters of a name in one line beside a diagram

_RC: Any = {
    "font.family": "sans-serif",
    "text.parse_math": False,  # labels are a user's own words
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": _LINE,
    "lines.markersize": _MARKER,
    # Text stays text: it can be searched, read aloud, and takes the page's own font.
    "svg.fonttype": "none",
    "svg.hashsalt": "minrl",
}


@dataclass(frozen=True)
class Panel:
    """Diagram on one pair of axes."""

    title: str
    alt: str  # text alternative, with the numbers
    draw: Callable[[Any], None]  # on matplotlib's axes
    rows: int = 0  # of text that need room, such as names beside an axis


@dataclass(frozen=True)
class Plot:
    """A file with one panel or more."""

    name: str  # of the file, without its ending
    title: str
    caption: str  # how to read it
    panels: Sequence[Panel]
    footer: str  # runs, environments, versions and protocol


def has_matplotlib() -> bool:
    """Return True if matplotlib is installed."""
    return find_spec("matplotlib") is not None


def colour(index: int) -> str:
    """Return the colour of method number `index`; after eight they repeat with other markers."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """Return the marker of method number `index`."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def line_style(index: int, points: int = 0, below: int = 0) -> dict[str, Any]:
    """Return the colour, marker and dashes of method number `index`, the same in every figure.

    Args:
        index: of the method.
        points: of its curve; above 25 only some have the marker.
        below: number of later curves that coincide with this one, which is drawn wider, at most by that of three.
    """
    below = min(below, _MOST_RIMS)
    style: dict[str, Any] = {"color": colour(index), "marker": marker(index)}
    style |= {"linestyle": "-" if index < len(COLOURS) else "--", "linewidth": _LINE + _RIM * below}
    style |= {"markersize": _MARKER + 1.5 * _RIM * below, "alpha": 0.55 if below else 1.0}
    if points > _MAX_MARKERS:
        # Each method starts at another point, so that markers do not hide one another.
        step = -(-points // _MAX_MARKERS)
        style["markevery"] = (index % step, step)
    return style


def count_coinciding(curves: Sequence[tuple[Array, Array]]) -> list[int]:
    """Count for each curve the later curves that coincide with it.

    Two curves coincide if they differ by less than 2 % of the range of all values over half of their common x range.

    Args:
        curves: x and y, each (P,), in drawing order.
    """
    values = np.concatenate([y for _, y in curves]) if curves else np.zeros(1)
    near = 0.02 * max(float(np.ptp(values)), 1e-12)
    return [sum(_coincide(curve, later, near) for later in curves[i + 1 :]) for i, curve in enumerate(curves)]


def _coincide(one: tuple[Array, Array], other: tuple[Array, Array], near: float) -> bool:
    low, high = max(one[0][0], other[0][0]), min(one[0][-1], other[0][-1])
    places = np.unique(np.concatenate([one[0], other[0]]))
    places = places[(places >= low) & (places <= high)]
    if not len(places):
        return False
    distance = np.abs(np.interp(places, *one) - np.interp(places, *other))
    return bool(np.mean(distance <= near) >= 0.5)


def limit_axis(axes: Any, axis: str, values: Iterable[float], highest: float | None = None) -> None:
    """Limit an axis to values that its quantity can take.

    Args:
        axes: with everything drawn.
        axis: "x" or "y".
        values: shown; if none is negative, the axis starts at 0 or above.
        highest: possible value.
    """
    limits = axes.get_xlim() if axis == "x" else axes.get_ylim()
    low, high = limits
    if all(value >= 0 for value in values):
        low = max(low, 0.0)
    if highest is not None:
        high = min(high, highest)
    (axes.set_xlim if axis == "x" else axes.set_ylim)(low, high)


def draw_grid(axes: Any, which: str = "both") -> None:
    """Draw thin grid lines behind the data."""
    axes.grid(axis=which, color=GREY, alpha=0.25, linewidth=0.6)


def tick_label(value: float, position: int) -> str:
    """Format a tick label, thousands as k, so that long labels do not overlap."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def label_curve_ends(axes: Any, ends: Sequence[tuple[int, str, float]]) -> None:
    """Label each curve at the right edge, at the height of its last point as far as there is room.

    Args:
        axes: with all curves drawn.
        ends: method's index, label and last value of each curve.
    """
    low, high = axes.get_ylim()
    gap = _LABEL / (axes.get_position().height * axes.figure.get_figheight())
    order = sorted(ends, key=lambda end: end[2])
    names = [wrap_name(label) for _, label, _ in order]
    # Between the centres of neighbours.
    gaps = [gap * (2 + one.count("\n") + other.count("\n")) / 2 for one, other in pairwise(names)]
    places: list[float] = []
    for i, (_, _, value) in enumerate(order):
        place = (value - low) / (high - low)
        places.append(max(place, places[-1] + gaps[i - 1]) if places else max(place, 0.0))
    # The highest name ends at the top, below the title; without room for all they go on above it.
    top = 1.0 - gap * names[-1].count("\n") / 2 if names else 1.0
    ceiling = max(top, sum(gaps))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], ceiling)
        if i:
            ceiling = places[i] - gaps[i - 1]
    for (index, _, _), name, place in zip(order, names, places, strict=True):
        style = {"color": colour(index), "marker": marker(index), "linestyle": ""}
        axes.plot([1.035], [place], transform=axes.transAxes, clip_on=False, **style)
        axes.text(1.065, place, name, transform=axes.transAxes, va="center", fontsize=8.5, linespacing=1.0)


def wrap_name(name: str, width: int = MAX_NAME) -> str:
    """Wrap a method's name to the width that a label has beside a diagram."""
    return "\n".join(textwrap.wrap(name, width))


def label_rows(names: Iterable[str]) -> int:
    """Return the rows of a panel (`Panel.rows`) that direct labels of these names need."""
    return -int(-count_lines(map(wrap_name, names)) * _LABEL // _ROW)


def count_lines(names: Iterable[str]) -> int:
    """Count the lines of wrapped names: a panel's rows for names beside an axis."""
    return sum(1 + name.count("\n") for name in names)


def write_files(plot: Plot, folder: Path) -> None:
    """Write `NAME.png` and `NAME.svg`: all panels on white, the title above and the footer below."""
    columns = 2 if len(plot.panels) in (2, 4) else min(_COLUMNS, len(plot.panels))
    rows = -(-len(plot.panels) // columns)
    width = max(columns * WIDTH, 6.5)
    note = textwrap.wrap(f"{plot.caption} {plot.footer}", int(width * 16.5))
    height = rows * max(map(_height, plot.panels))
    top, bottom = 0.45, 0.16 * len(note) + 0.15
    whole = height + top + bottom
    with _figure((width, whole)) as figure:
        figure.set_facecolor("white")
        figure.get_layout_engine().set(rect=(0.01, bottom / whole, 0.98, height / whole), wspace=0.04, hspace=0.06)
        for position, panel in enumerate(plot.panels, start=1):
            _draw(figure.add_subplot(rows, columns, position), panel, panel.title if panel.title != plot.title else "")
        figure.text(0.015, 1 - 0.12 / whole, plot.title, va="top", fontsize=13, fontweight="bold")
        figure.text(0.015, 0.1 / whole, "\n".join(note), va="bottom", fontsize=7.5, alpha=0.8)
        with replacing(folder / f"{plot.name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=140)
        with replacing(folder / f"{plot.name}.svg") as temporary:
            temporary.write_text(_svg(figure, plot.name), encoding="utf-8")


def panel_svg(panel: Panel, name: str) -> str:
    """Render one panel as an SVG element without a background, to embed in a page."""
    with _figure((WIDTH, _height(panel))) as figure:
        figure.set_facecolor("none")
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        _draw(axes, panel, "")
        text = _svg(figure, name)
    return text[text.index("<svg") :]


def _svg(figure: Any, name: str) -> str:
    """Render a figure as SVG: deterministic text, with ids that are unique within a page."""
    output = BytesIO()
    figure.savefig(output, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = output.getvalue().decode()
    # matplotlib's ids hold the last bits of the layout, which change from run to run.
    ids = dict.fromkeys(re.findall(r'id="([a-z][0-9a-f]{10})"', text))
    for number, old in enumerate(ids, start=1):
        text = text.replace(old, f"{name}-{number}")
    return text


def _height(panel: Panel) -> float:
    return max(HEIGHT, 0.9 + _ROW * panel.rows)


def _draw(axes: Any, panel: Panel, title: str) -> None:
    panel.draw(axes)
    axes.set_title("\n".join(textwrap.wrap(title, 46)))


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[Any]:
    """Create an empty figure of a size in inches."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
