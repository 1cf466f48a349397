"""Runs and comparisons without plots, which take as long as a tiny run itself, 2 s a report."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from minrl.runs import figures, learning_curve
from minrl.training import target_sweep


@contextmanager
def without_plots() -> Iterator[None]:
    """Train as where matplotlib is not installed."""
    with (
        mock.patch.object(figures, "find_spec", return_value=None),
        mock.patch.object(learning_curve, "find_spec", return_value=None),
        mock.patch.object(target_sweep, "find_spec", return_value=None),
    ):
        yield
