"""Plots of runs: learning curves, achieved over target return, score over cost."""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from minrl.compare.report.cost import action_milliseconds, training_seconds
from minrl.compare.report.protocol import footer
from minrl.compare.stats.analysis import Analysis
from minrl.compare.stats.curves import Over, TaskCurves, learning_curves
from minrl.compare.stats.results import RunRecord
from minrl.compare.stats.scores import TaskScores
from minrl.compare.stats.statistics import Estimate, mean_and_error
from minrl.runs.figures import (
    GREY,
    Panel,
    Plot,
    colour,
    count_coinciding,
    draw_grid,
    label_curve_ends,
    label_rows,
    limit_axis,
    line_style,
    marker,
    tick_label,
)

Targets = tuple[list[float], list[float], list[float]]  # target returns, mean achieved returns, standard errors
Point = tuple[int, str, float, Estimate]  # index, label, cost and score of a method


def curves(analysis: Analysis, over: Over) -> Plot | None:
    """Plot learning curves, a panel for each task; None where no log holds an evaluation."""
    panels = []
    for scores in analysis.tasks:
        found = learning_curves(analysis, scores, over)
        if found.curves:
            panels.append(_curve_panel(analysis, scores, found, over))
    title = f"Learning curves over {'steps' if over == 'steps' else 'seconds of training'}"
    caption = (
        "Evaluations during training, mean over seeds; bands are ± one standard error."
        if over == "steps"
        else "As over steps, each point at the mean training time until that step, without evaluations."
    )
    return Plot(f"curves_{over}", title, caption, panels, footer(analysis.runs)) if panels else None


def targets(analysis: Analysis) -> Plot | None:
    """Plot achieved over target return; None where no run has tried several targets."""
    panels, runs = [], [run for run in analysis.runs if run.targets()]
    for scores in analysis.tasks:
        found = {}
        for index, (method, label) in enumerate(analysis.labels.items()):
            means = _targets([r for r in runs if (r.planned.task, r.planned.method) == (scores.task.name, method)])
            if means is not None:
                found[index, label] = means
        if found:
            panels.append(_target_panel(scores.task.label, found))
    caption = (
        "Mean over seeds ± one standard error, last checkpoints; on the dotted line the agent achieves its target."
    )
    return Plot("targets", "Achieved over target return", caption, panels, footer(runs)) if panels else None


def cost(analysis: Analysis) -> Plot | None:
    """Plot score over training time and over time per action: over all tasks on one scale, else of each task."""
    panels = []
    if analysis.totals:
        runs = {m: [run for run in analysis.overall_runs if run.planned.method == m] for m in analysis.totals}
        scored = {m: total.middle for m, total in analysis.totals.items()}
        panels += _cost_panels(analysis, "All tasks on one scale", "interquartile mean, 0 to 100", scored, runs)
    else:
        for scores in analysis.tasks:
            name = scores.task.name
            scored = {m: analysis.cells[name, m].middle for m in analysis.labels if (name, m) in analysis.cells}
            runs = {m: analysis.comparison.runs_of(name, m) for m in scored}
            panels += _cost_panels(analysis, scores.task.label, f"interquartile mean, {scores.unit}", scored, runs)
    estimates = [e for m in analysis.labels for e in _shown(analysis, m)]
    interval = " with its 95 % bootstrap interval" if any(e.has_interval for e in estimates) else ""
    caption = f"Interquartile mean{interval} over the mean cost of a run. Up and left is better."
    shown = analysis.overall_runs or analysis.runs
    return Plot("cost", "Cost against score", caption, panels, footer(shown)) if panels else None


def _shown(analysis: Analysis, method: str) -> list[Estimate]:
    """Return the interquartile means of a method that the figure of costs shows."""
    if analysis.totals:
        return [analysis.totals[method].middle] if method in analysis.totals else []
    return [cell.middle for (_, name), cell in analysis.cells.items() if name == method]


def _curve_panel(analysis: Analysis, scores: TaskScores, found: TaskCurves, over: Over) -> Panel:
    index = {method: i for i, method in enumerate(analysis.labels)}
    unit = "steps of data" if scores.task.family == "offline" else "environment steps"

    def draw(axes: Any) -> None:
        below = count_coinciding([(curve.x, curve.mean) for curve in found.curves.values()])
        for (method, curve), later in zip(found.curves.items(), below, strict=True):
            style = line_style(index[method], len(curve.x), later)
            axes.plot(curve.x, curve.mean, **style)
            low, high = curve.mean - curve.error, curve.mean + curve.error
            axes.fill_between(curve.x, low, high, color=style["color"], alpha=_alpha(found.curves), linewidth=0)
        axes.set(xlabel=unit if over == "steps" else "seconds of training", ylabel=found.what)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(tick_label)
        limit_axis(axes, "x", [0.0])
        limit_axis(axes, "y", [float(y) for curve in found.curves.values() for y in curve.mean])
        draw_grid(axes)
        label_curve_ends(axes, [(index[m], analysis.labels[m], float(c.mean[-1])) for m, c in found.curves.items()])

    ends = ", ".join(
        f"{analysis.labels[m]} {scores.text(c.mean[-1])} ± {scores.text(c.error[-1])} ({c.seeds} seeds)"
        for m, c in found.curves.items()
    )
    alt = f"{scores.task.label}: {found.what} over {unit if over == 'steps' else 'seconds'}; at the end {ends}."
    return Panel(scores.task.label, alt, draw, label_rows(analysis.labels[m] for m in found.curves))


def _targets(runs: Sequence[RunRecord]) -> Targets | None:
    """Average the target sweep over seeds; only targets that every run has tried."""
    tried = [dict(run.targets()) for run in runs]
    asked = sorted(set.intersection(*map(set, tried))) if tried else []
    if len(asked) < 2:
        return None
    achieved = [mean_and_error(np.array([run[target] for run in tried])) for target in asked]
    return asked, [mean for mean, _ in achieved], [error or 0.0 for _, error in achieved]


def _target_panel(title: str, found: dict[tuple[int, str], Targets]) -> Panel:
    def draw(axes: Any) -> None:
        below = count_coinciding([(np.array(asked), np.array(means)) for asked, means, _ in found.values()])
        for ((index, _), (asked, means, errors)), later in zip(found.items(), below, strict=True):
            axes.errorbar(asked, means, yerr=errors, capsize=2, **line_style(index, len(asked), later))
        ends = [min(asked[0] for asked, _, _ in found.values()), max(asked[-1] for asked, _, _ in found.values())]
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=":")
        axes.set(xlabel="target return", ylabel="achieved return")
        limit_axis(axes, "x", [place for asked, _, _ in found.values() for place in asked])
        limit_axis(axes, "y", [*ends, *(mean for _, means, _ in found.values() for mean in means)])
        draw_grid(axes)
        label_curve_ends(axes, [(index, label, means[-1]) for (index, label), (_, means, _) in found.items()])

    words = "; ".join(
        f"{label}: " + ", ".join(f"target {a:.0f}, achieved {m:.0f}" for a, m in zip(asked, means, strict=True))
        for (_, label), (asked, means, _) in found.items()
    )
    return Panel(title, f"{title}. {words}.", draw, label_rows(label for _, label in found))


def _cost_panels(
    analysis: Analysis, title: str, ylabel: str, scored: dict[str, Estimate], runs: dict[str, list[RunRecord]]
) -> list[Panel]:
    panels = []
    index = {method: i for i, method in enumerate(analysis.labels)}
    for kind, what, measure in (
        ("training", "training of a run, seconds", training_seconds),
        ("acting", "an action, milliseconds", action_milliseconds),
    ):
        found: list[Point] = []
        for method, estimate in scored.items():
            number = measure(runs[method])
            if number:
                found.append((index[method], analysis.labels[method], number, estimate))
        if found:
            panels.append(_cost_panel(f"{title}: {kind}", what, ylabel, found))
    return panels


def _cost_panel(title: str, what: str, ylabel: str, found: Sequence[Point]) -> Panel:
    def draw(axes: Any) -> None:
        for i, (index, _, number, score) in enumerate(found):
            if score.low is not None and score.high is not None:
                axes.plot([number, number], [score.low, score.high], color=colour(index), linewidth=4, alpha=0.35)
            size = 7 + 4 * sum((number, score.value) == (later[2], later[3].value) for later in found[i + 1 :])
            axes.plot([number], [score.value], color=colour(index), marker=marker(index), markersize=size)
        axes.set(xlabel=what, ylabel=ylabel)
        axes.margins(x=0.15)
        _scale_costs(axes, [number for _, _, number, _ in found])
        limit_axis(axes, "x", [number for _, _, number, _ in found])
        limit_axis(axes, "y", [end for *_, score in found for end in (score.value, score.low or 0.0)])
        draw_grid(axes)
        label_curve_ends(axes, [(index, label, score.value) for index, label, _, score in found])

    words = ", ".join(f"{label} {number:.3g} and {score.value:.3g}" for _, label, number, score in found)
    return Panel(title, f"{title}. {what} and {ylabel}: {words}.", draw, label_rows(label for _, label, *_ in found))


def _scale_costs(axes: Any, numbers: Sequence[float]) -> None:
    """Use a logarithmic axis where the largest value exceeds three times the smallest."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if max(numbers) > 3 * min(numbers):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(tick_label)


def _alpha(curves: Sized) -> float:
    """Return the opacity of a band, lower where many overlap."""
    return min(0.16, 1.0 / (1 + len(curves)))
