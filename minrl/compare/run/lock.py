"""A lock on a folder, for one process at a time; the lock of a dead process is released."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

NAME = ".lock"


@contextmanager
def folder_lock(folder: Path, *, patience: float) -> Iterator[None]:
    """Hold the folder's lock; a ValueError where another process still holds it after `patience` seconds."""
    lock = FileLock(folder / NAME)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise ValueError(f"another process is at work in {folder}: wait for it or stop it") from None
    try:
        yield
    finally:
        lock.release()
