"""Means over seeds, as tables and plots show them."""

import math
import statistics
from collections.abc import Sequence

# Stands where there is no number.
MISSING = "\N{EN DASH}"


def mean_and_error(values: Sequence[float], digits: int) -> str:
    """The mean, with its standard error where there are several values."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.{digits}f}"


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Point by point over curves with as many points each, such as those of several seeds."""
    return [
        (statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points))
        for points in zip(*curves, strict=True)
    ]
