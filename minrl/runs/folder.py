"""Names of the files of a run's folder and of a comparison's, and the lock under which they are written."""

import os
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minrl.system.files import remove_drafts
from minrl.system.lock import folder_lock

# Of a run, here and on resume.
CONFIG = "config.toml"
LAST_CHECKPOINT, BEST_CHECKPOINT = "checkpoint.pt", "best.pt"
PREVIOUS_CHECKPOINT = "previous.pt"  # the one before the last, for when that is damaged
NEXT_BEST = ".best.next.pt"  # best weights of a step beyond the last checkpoint
PROGRESS = "progress.csv"  # losses and evaluations
LEARNING_CURVE = "learning_curve.png"
VIDEOS = "videos"  # folder of GIFs
TARGETS, TARGETS_PLOT = "targets.json", "targets.png"  # evaluations at several target returns
TARGET_CHOICE = "target_choice.json"  # candidates of --choose-target
RETURNS_TO_GO, RELABEL_SUMMARY = "returns_to_go.npy", "relabel.json"  # of --relabel-returns
ERRORS = "errors.txt"  # tracebacks of failed evaluations
SUMMARY = "summary.json"  # written last
# Of a run in a comparison besides: its output.
LOG = "log.txt"
# Of a comparison: its plan, the runs without a result, the folder of its runs.
GRID, STATE, RUNS = "grid.toml", "state.json", "runs"

# Files whose drafts, left by a process that was killed, the next holder of the lock removes.
_WRITTEN = frozenset(
    {
        CONFIG,
        LAST_CHECKPOINT,
        PREVIOUS_CHECKPOINT,
        BEST_CHECKPOINT,
        NEXT_BEST,
        PROGRESS,
        LEARNING_CURVE,
        SUMMARY,
        GRID,
        STATE,
    }
    | {TARGETS, TARGETS_PLOT, TARGET_CHOICE, RETURNS_TO_GO, RELABEL_SUMMARY}
)


class _Training:
    """Holder of the lock that one thread of a process has while it trains."""

    lock = threading.RLock()


def _forget() -> None:
    """Replace the lock in a forked process, where the thread that held it may be missing."""
    _Training.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def run_lock(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a run's or a comparison's folder, and remove drafts that killed processes have left.

    Of torchrun's processes only the first one takes it. A missing folder is made. In a process one thread trains at a
    time: torch's random numbers and its number of threads are one for all.

    Raises:
        ValueError: if another process works in that folder, or another thread of this process trains.
        OSError: if the folder cannot be made or written.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    lock = _Training.lock
    if not lock.acquire(blocking=False):
        raise ValueError(
            f"another thread of this process trains, and random numbers are one sequence for all its threads: start a "
            f"process of its own for {folder}"
        )
    try:
        with folder_lock(folder, patience=patience):
            remove_drafts(folder, _WRITTEN)
            if (folder / VIDEOS).is_dir():
                remove_drafts(folder / VIDEOS)
            yield
    finally:
        lock.release()


def check_new(out: Path) -> None:
    """Raise ValueError if a folder for a new run holds a run already, or is a file."""
    if (out / LAST_CHECKPOINT).exists():
        folder = shlex.quote(str(out))
        raise ValueError(f"{out} already holds a run: resume it with --resume {folder}, or choose another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out names a folder")


def run_folder(path: Path) -> Path:
    """Return the folder of a run that is named by its folder or by a checkpoint file in it."""
    return path if path.is_dir() else path.parent
