"""Guard for optional work in a training run, such as an evaluation, whose failure must not end the run."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minrl.runs.folder import ERRORS
from minrl.system.files import open_appending
from minrl.system.messages import one_line, with_class


@dataclass
class Attempt:
    """Outcome of a piece of optional work."""

    error: str | None = None  # in one line; None where it did not fail


@contextmanager
def attempt(work: str, step: int, folder: Path) -> Iterator[Attempt]:
    """Suppress an exception of the block: report it on standard error, append its traceback to `errors.txt` of the run.

    Signals and interpreter exit pass, and errors of files of the run: a disk is full or broken, and the block is
    repeated when the run is resumed. With MINRL_DEBUG in the environment every exception passes.

    Args:
        work: noun for the message, such as "evaluation".
        step: of the run.
        folder: of the run.
    """
    result = Attempt()
    try:
        yield result
    except Exception as error:  # environments are foreign code and raise any type
        if os.environ.get("MINRL_DEBUG") or _is_of_the_run(error, folder):
            raise
        result.error = with_class(error)
        try:
            with open_appending(folder / ERRORS) as file:
                file.write(f"{work} at step {step}\n{traceback.format_exc()}\n")
            kept = f"see {folder / ERRORS}"
        except (OSError, ValueError) as other:
            kept = f"its traceback is not kept: {one_line(other)}"
        print(
            f"minrl: the {work} at step {step} failed: {result.error}; the run continues; {kept}",
            file=sys.stderr,
            flush=True,
        )


def _is_of_the_run(error: Exception, folder: Path) -> bool:
    """Return True if an error is that of reading or writing a file in the run's folder."""
    named = isinstance(error, OSError) and isinstance(error.filename, str | Path)
    return named and Path(error.filename).absolute().is_relative_to(folder.absolute())  # type: ignore[attr-defined]
