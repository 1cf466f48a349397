"""Means over seeds for tables and plots."""

import math
import statistics
from collections.abc import Sequence

# Shown for a missing value.
MISSING = "\N{EN DASH}"


def mean_and_error(values: Sequence[float], digits: int) -> str:
    """Format the mean, with its standard error for several values."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.{digits}f}"


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Average point by point over curves of equal length, such as those of several seeds."""
    return [
        (statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points))
        for points in zip(*curves, strict=True)
    ]
