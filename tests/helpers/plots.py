"""Runs without plots, which take as long as a tiny run itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from minrl.runs import learning_curve
from minrl.training import target_sweep


@contextmanager
def without_plots() -> Iterator[None]:
    """Train as where matplotlib is not installed."""
    with (
        mock.patch.object(learning_curve, "find_spec", return_value=None),
        mock.patch.object(target_sweep, "find_spec", return_value=None),
    ):
        yield
