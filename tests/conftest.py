"""Settings of every test: one thread, a fixed seed, and no plots of runs where none are asked for."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from plots import without_plots

torch.set_num_threads(1)
# Searches for garbage after every 700 objects took 32 of 594 CPU seconds.
gc.set_threshold(10_000)

# Files that take longest begin first, so that the processes of `make test` end together; those that compile most
# kernels compile different ones.
FIRST = (
    "cells/test_cells.py", "online/compiled/test_compiled_conditions.py", "export/test_export.py",
    "compare/test_compare_run.py", "faults/test_kills.py", "faults/test_disk.py", "faults/test_foreign_state.py",
    "bench/test_reproduce.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files in `FIRST` to the beginning."""
    begins = {Path(__file__).parent / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: begins.get(item.path, len(FIRST)))


def freeze() -> None:
    """Leave the objects that are there, of torch and 7,000 tests, out of later searches for garbage."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    freeze()


@pytest.fixture(scope="module", autouse=True)
def _freeze() -> Iterator[None]:
    """Keep what a file has imported out of them too: they take 2.5 instead of 7.1 of 86 CPU seconds of four folders."""
    yield
    freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start each test from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _plots(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out the plots of runs, except in tests that are marked with `plots`."""
    if request.node.get_closest_marker("plots"):
        yield
    else:
        with without_plots():
            yield
