"""The learning curve of a run as PNG: losses, and scores beside the mean and best return of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minrl.runs.figures import GREY, count_coinciding, limit_axis, line_style
from minrl.runs.folder import LEARNING_CURVE
from minrl.runs.log import EVALUATED, read_log
from minrl.system.files import replacing

# Legend entries of the log's columns.
NAMES = {
    "train/loss": "learned from",
    "validation/loss": "held out",
    "rollout/ep_rew_mean": "while learning",
    "eval/mean_reward": "evaluations",
    "eval/normalized_score": "evaluations",
}
Points = tuple[list[float], list[float]]  # steps and values


@dataclass(frozen=True)
class CurvePanel:
    """A panel of the learning curve: columns of the log over one that counts steps."""

    counter: str
    xlabel: str
    ylabel: str
    curves: tuple[str, ...]  # evaluations and validations have a marker at each point
    lines: Mapping[str, float] = field(default_factory=dict)  # values to compare with, by name


def write_curve(out: Path, title: str, panels: Sequence[CurvePanel]) -> bool:
    """Write the learning curve into the run's folder; False without matplotlib or without data."""
    if find_spec("matplotlib") is None:
        return False
    figure = draw(out, title, panels)
    if figure is None:
        return False
    with replacing(out / LEARNING_CURVE) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True


def draw(out: Path, title: str, panels: Sequence[CurvePanel]) -> Any:
    """Draw the figure; None where the log has none of the curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(panel, curves) for panel in panels if (curves := _curves(out, panel))]
    if not shown:
        return None
    figure = Figure(figsize=(max(5.6, 5 * len(shown)), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium", parse_math=False)
    for position, (panel, curves) in enumerate(shown, start=1):
        _draw_panel(figure.add_subplot(1, len(shown), position), panel, curves)
    return figure


def _curves(out: Path, panel: CurvePanel) -> dict[str, Points]:
    log = read_log(out, panel.counter)
    found = {name: [(row[panel.counter], row[name]) for row in log if name in row] for name in panel.curves}
    return {name: ([x for x, _ in points], [y for _, y in points]) for name, points in found.items() if points}


def _draw_panel(axes: Any, panel: CurvePanel, curves: dict[str, Points]) -> None:
    import numpy as np

    below = count_coinciding([(np.array(x), np.array(y)) for x, y in curves.values()])
    for (name, (x, y)), later in zip(curves.items(), below, strict=True):
        style = line_style(panel.curves.index(name), len(x), later)
        if not name.startswith(EVALUATED) and len(x) > 1:
            style["marker"] = ""
        axes.plot(x, y, label=NAMES.get(name, name), **style)
    for place, (name, value) in enumerate(panel.lines.items()):
        axes.axhline(value, color=GREY, linewidth=1, linestyle=("--", ":")[place % 2], label=name)
    limit_axis(axes, "x", [0.0])
    limit_axis(axes, "y", [value for _, y in curves.values() for value in y] + list(panel.lines.values()))
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
    axes.grid(alpha=0.3)
    if len(curves) + len(panel.lines) > 1:
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, frameon=False)
