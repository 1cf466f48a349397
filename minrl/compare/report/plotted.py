"""Methods that the plots of a large comparison show."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from minrl.compare.report.chosen import chosen_methods
from minrl.compare.stats.analysis import Analysis, analyse
from minrl.runs.figures import COLOURS

# Eight colours, each as a line and dashed: with more methods two would look alike, and names have no room.
MOST = 2 * len(COLOURS)


def plotted(analysis: Analysis) -> tuple[Analysis, str]:
    """Return the analysis of the methods that plots show, and which they are; at most 16.

    All of up to 16, with an empty text. Of more, the methods without a sweep and the chosen combination of each sweep;
    where these are one or more than 16, the 16 with the highest scores.
    """
    methods = analysis.comparison.plan.methods
    if len(methods) <= MOST:
        return analysis, ""
    chosen = chosen_methods(analysis)
    names = [method.name for method in methods if not method.base or method.name in chosen]
    if 1 < len(names) <= MOST:
        return _only(analysis, names), f"Of {len(methods)} methods those with the chosen settings of each."
    names = sorted(analysis.labels, key=lambda name: _standing(analysis, name), reverse=True)[:MOST]
    return _only(analysis, names), f"Of {len(methods)} methods the {MOST} with the highest scores."


def _only(analysis: Analysis, names: Collection[str]) -> Analysis:
    """Compute the analysis of the runs of these methods alone."""
    whole = analysis.comparison
    methods = tuple(method for method in whole.plan.methods if method.name in names)
    planned = tuple(run for run in whole.plan.runs if run.method in names)
    runs = tuple(run for run in whole.runs if run.planned.method in names)
    return analyse(replace(whole, plan=replace(whole.plan, methods=methods, runs=planned), runs=runs))


def _standing(analysis: Analysis, method: str) -> float:
    """Average a method's place between the lowest and the highest mean of each task, 0 to 1; -1 without a score."""
    places = []
    for scores in analysis.tasks:
        means = {m: cell.mean for (task, m), cell in analysis.cells.items() if task == scores.task.name}
        if method in means:
            low, high = min(means.values()), max(means.values())
            places.append((means[method] - low) / (high - low) if high > low else 1.0)
    return float(np.mean(places)) if places else -1.0
