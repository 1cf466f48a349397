"""Plots of final scores: intervals, performance profiles, probabilities of improvement.

Shapes: K thresholds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minrl.compare.report.protocol import footer
from minrl.compare.stats import statistics
from minrl.compare.stats.analysis import Analysis
from minrl.compare.stats.statistics import Array, Estimate
from minrl.runs.figures import (
    GREY,
    Panel,
    Plot,
    colour,
    count_coinciding,
    count_lines,
    draw_grid,
    label_curve_ends,
    label_rows,
    limit_axis,
    line_style,
    marker,
    wrap_name,
)

_THRESHOLDS = 101
_PAIR = 36  # characters of a line that names a pair of methods
Named = tuple[int, str, Estimate]  # index, label and estimate of a method


def intervals(analysis: Analysis) -> Plot | None:
    """Plot interquartile means over all tasks and in each of them; None without a score."""
    panels = []
    if analysis.totals:
        found = [(i, label, analysis.totals[m].middle) for i, m, label in _methods(analysis) if m in analysis.totals]
        count = len(analysis.overall.tasks)
        title = f"Over {count} {'task' if count == 1 else 'tasks'} on one scale"
        panels.append(_interval_panel(title, "interquartile mean, 0 to 100", found, {}, 1))
    for scores in analysis.tasks:
        cells = [(i, label, analysis.cells.get((scores.task.name, m))) for i, m, label in _methods(analysis)]
        found = [(i, label, cell.middle) for i, label, cell in cells if cell is not None]
        if found:
            axis = f"interquartile mean, {scores.unit}"
            panels.append(_interval_panel(scores.task.label, axis, found, scores.task.published, scores.digits))
    estimates = [total.middle for total in analysis.totals.values()] + [c.middle for c in analysis.cells.values()]
    caption = "Last checkpoints" + ("; bars are 95 % bootstrap intervals." if _any_interval(estimates) else ".")
    if any(scores.task.published for scores in analysis.tasks):
        caption += " A hollow diamond is a published score."
    return Plot("scores", "Scores with intervals", caption, panels, footer(analysis.runs)) if panels else None


def profiles(analysis: Analysis) -> Plot | None:
    """Plot the share of runs above each score, over all tasks on one scale; None without such tasks."""
    total = analysis.overall
    if not total.tasks:
        return None
    every = np.concatenate([scores for strata in total.strata.values() for scores in strata])
    spread = max(float(np.ptp(every)), 1.0)
    thresholds = np.linspace(every.min() - 0.05 * spread, every.max() + 0.05 * spread, _THRESHOLDS)
    found = [
        (i, label, statistics.performance_profile(total.strata[m], thresholds))
        for i, m, label in _methods(analysis)
        if m in total.methods
    ]

    def draw(axes: Any) -> None:
        below = count_coinciding([(thresholds, shares) for _, _, (shares, _) in found])
        for (index, label, (shares, band)), later in zip(found, below, strict=True):
            style = line_style(index, len(thresholds), later)
            axes.plot(thresholds, shares, label=label, drawstyle="steps-pre", clip_on=False, **style)
            if band is not None:
                axes.fill_between(thresholds, *band, color=colour(index), alpha=0.15, linewidth=0, step="pre")
        axes.set(xlabel="score, 0 to 100", ylabel="share of runs above it", ylim=(0, 1))
        axes.set_xlim(thresholds[0], thresholds[-1])
        limit_axis(axes, "x", every)
        draw_grid(axes)
        label_curve_ends(axes, [(index, label, _area(shares)) for index, label, (shares, _) in found])

    heights = ", ".join(f"{label} {_area(shares):.2f}" for _, label, (shares, _) in found)
    alt = f"Share of runs above each score from {thresholds[0]:.0f} to {thresholds[-1]:.0f}; mean height: {heights}."
    bands = (
        "Bands are pointwise 95 % bootstrap intervals; names" if any(b is not None for *_, (_, b) in found) else "Names"
    )
    caption = f"Higher is better. {bands} are ordered by mean height."
    panel = Panel("Performance profiles", alt, draw, label_rows(label for _, label, _ in found))
    return Plot("profiles", "Performance profiles", caption, [panel], footer(analysis.overall_runs))


def improvements(analysis: Analysis) -> Plot | None:
    """Plot each pair's probability of improvement; None with a single method."""
    labels = analysis.labels
    index = {method: i for i, method, _ in _methods(analysis)}
    found: list[Named] = [
        (index[f.method], f"{labels[f.method]} above {labels[f.other]}", f.probability) for f in analysis.improvements
    ]
    if not found:
        return None

    names = [wrap_name(label, _PAIR) for _, label, _ in found]

    def draw(axes: Any) -> None:
        _draw_intervals(axes, found, names)
        axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
        axes.set(xlim=(0, 1), xlabel="probability of improvement")

    alt = f"Probabilities of improvement: {_words(found, 2)}."
    interval = ", with 95 % bootstrap intervals" if _any_interval([estimate for *_, estimate in found]) else ""
    caption = f"How likely a run of the one scores above a run of the other in the same task{interval}."
    # A heading other than the table's.
    title = "Which method scores higher"
    panel = Panel(title, alt, draw, count_lines(names))
    return Plot("improvement", title, caption, [panel], footer(analysis.runs))


def _interval_panel(
    title: str, axis: str, found: Sequence[Named], published: Mapping[str, float], digits: int
) -> Panel:
    labels = [label for _, label, _ in found] + [f"{name} (published)" for name in published]
    names = list(map(wrap_name, labels))

    def draw(axes: Any) -> None:
        _draw_intervals(axes, found, names[: len(found)])
        places = range(len(found), len(found) + len(published))
        if published:
            axes.plot(list(published.values()), list(places), "D", color=GREY, markerfacecolor="none", markersize=5)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel=axis, ylim=(len(names) - 0.5, -0.5))
        limit_axis(axes, "x", [end for *_, e in found for end in (e.value, e.low or 0.0)] + list(published.values()))

    words = _words(found, digits) + "".join(f", {name} (published) {value:g}" for name, value in published.items())
    return Panel(title, f"{title}, {axis}: {words}.", draw, count_lines(names))


def _draw_intervals(axes: Any, found: Sequence[Named], names: Sequence[str]) -> None:
    for place, (index, _, estimate) in enumerate(found):
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [place, place], color=colour(index), linewidth=5, alpha=0.35,
                      solid_capstyle="butt")  # fmt: skip
        axes.plot([estimate.value], [place], color=colour(index), marker=marker(index), markersize=7, clip_on=False)
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    draw_grid(axes, "x")


def _any_interval(estimates: Sequence[Estimate]) -> bool:
    return any(estimate.has_interval for estimate in estimates)


def _words(found: Sequence[Named], digits: int) -> str:
    return ", ".join(f"{label} {_number(estimate, digits)}" for _, label, estimate in found)


def _number(estimate: Estimate, digits: int) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f} (no interval)"
    return f"{estimate.value:.{digits}f} (95 % interval {estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _area(shares: Array) -> float:
    return float(np.mean(shares))


def _methods(analysis: Analysis) -> list[tuple[int, str, str]]:
    """List index, name and label of each method."""
    return [(i, name, label) for i, (name, label) in enumerate(analysis.labels.items())]
