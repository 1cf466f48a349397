"""One library for the matrix products of a whole comparison, so that all its processes round alike.

Without that each process measures which one is faster, and may come to another answer where the machine is busy.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minrl.compare.grid.plan import noted_products
from minrl.kernels.matmul import library

VARIABLE = "MINRL_MATMUL"


def settled_products(out: Path) -> str:
    """`torch` or `onednn`: what the comparison in this folder was begun with, else what is chosen here.

    Raises:
        ValueError: where the environment variable asks for another one than the comparison was begun with.
    """
    noted, asked = noted_products(out), os.environ.get(VARIABLE, "auto")
    if noted is None:
        return library()
    if asked not in ("auto", noted):
        raise ValueError(f"{out} was begun with {VARIABLE}={noted} and goes on with it; here it is {asked}")
    return noted


@contextmanager
def matrix_products(name: str) -> Iterator[None]:
    """Products by this library, here and in processes that are started meanwhile."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
