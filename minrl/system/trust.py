"""`--trust`: the user's consent that files may run code and allocate any amount of memory."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# In the environment, so that worker processes have it too.
VARIABLE = "MINRL_TRUST"


def trusts_files() -> bool:
    """Return True if the user trusts the files."""
    return os.environ.get(VARIABLE) == "1"


@contextmanager
def trusting(files: bool) -> Iterator[None]:
    """Set `trusts_files` inside the context if `files`, else leave it unchanged."""
    before = os.environ.get(VARIABLE)
    if files:
        os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if files and before is None:
            os.environ.pop(VARIABLE, None)
        elif before is not None:
            os.environ[VARIABLE] = before


def check_pickles(file: Path) -> None:
    """Raise ValueError unless files are trusted: `file` holds pickled objects, and opening them may run any code."""
    if not trusts_files():
        raise ValueError(
            f"{file} holds pickled objects, and opening them runs whatever code they name: if you trust where it comes "
            "from, repeat the command with --trust (in Python trust=True)"
        )


def add_trust(parser: argparse._ActionsContainer, what: str, default: str | bool = False) -> None:
    """Add the flag `--trust`; `what` describes in the help what files may then do."""
    text = f"{what}: only for files of people whom you trust, as it may run code"
    parser.add_argument("--trust", action="store_true", default=default, help=text)
