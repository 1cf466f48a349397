"""One matmul library for a whole comparison, so that all its processes round alike on any processor."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minrl.compare.grid.plan import saved_library
from minrl.kernels.matmul import library

VARIABLE = "MINRL_MATMUL"


def chosen_library(out: Path) -> str:
    """Return `torch` or `onednn`: the choice of an earlier run of this comparison, else of this process.

    Raises:
        ValueError: if the environment variable names another one than the comparison was started with.
    """
    noted, asked = saved_library(out), os.environ.get(VARIABLE, "auto")
    if noted is None:
        return library()
    if asked not in ("auto", noted):
        raise ValueError(f"{out} was started with {VARIABLE}={noted} and keeps it; here it is {asked}")
    return noted


@contextmanager
def matmul_library(name: str) -> Iterator[None]:
    """Set the matmul library of this process and of processes started inside the context."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
