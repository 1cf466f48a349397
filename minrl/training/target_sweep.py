"""Sweep over target returns: target and achieved return as JSON and as a plot."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minrl.evaluate import Evaluation
from minrl.runs.figures import limit_axis
from minrl.runs.folder import TARGETS, TARGETS_PLOT
from minrl.runs.log import Picture
from minrl.runs.side_files import intact, read_targets, write_json
from minrl.system.files import replacing

_COUNT = 5


def spread_targets(returns: npt.NDArray[np.float64]) -> list[float]:
    """Return five target returns evenly from the worst to the best of the data (E,); fewer where these agree."""
    worst, best = float(returns.min()), float(returns.max())
    # Rounding in linspace may exceed the end by one unit in the last place.
    return sorted(set(np.linspace(worst, best, _COUNT).clip(worst, best).tolist()))


def curve_names(targets: Sequence[float]) -> list[str]:
    """Return the log's column of each target, with as many digits (six or more) as tell the targets apart."""
    for digits in range(6, 18):
        names = [f"{target:.{digits}g}" for target in targets]
        if len(set(names)) == len(set(targets)):
            break
    return [f"eval/target_{name}_mean_reward" for name in names]


def write_targets(folder: Path, step: int, results: Sequence[Evaluation]) -> Picture | None:
    """Add the rows of `step`, drop those of later steps (before a resume), and plot the newest.

    Returns:
        The plot, which is saved beside the rows; None without matplotlib.
    """
    before = intact(folder / TARGETS, lambda: read_targets(folder), None) or []
    rows = [row for row in before if row["step"] < step]
    rows += [{"step": step} | result.to_dict() for result in results]
    write_json(folder / TARGETS, rows)
    if find_spec("matplotlib") is None:
        return None
    picture = _plot(results, step)
    with replacing(folder / TARGETS_PLOT) as temporary:
        temporary.write_bytes(picture.data)
    return picture


def _plot(results: Sequence[Evaluation], step: int) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    asked = [result.target_return or 0.0 for result in results]
    achieved = [result.mean_return for result in results]
    figure = Figure(figsize=(4.8, 4.0), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends = [min(asked), max(asked)]
    axes.plot(ends, ends, linestyle="--", color="0.6", label="achieved = target")
    errors = [result.standard_error for result in results]
    known = [error for error in errors if error is not None]  # none for single episodes
    axes.errorbar(
        asked, achieved, yerr=known if len(known) == len(errors) else None, marker="o", capsize=3, label="achieved"
    )
    axes.set_title(f"{results[0].environment}, step {step}, {len(results[0].returns)} episodes each", fontsize="medium")
    axes.set(
        xlabel="target return",
        ylabel="achieved return (mean ± standard error)" if known else "achieved return",
    )
    limit_axis(axes, "x", asked)
    limit_axis(axes, "y", [*asked, *achieved])
    axes.grid(alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    width, height = canvas.get_width_height()
    return Picture(file.getvalue(), width, height)
