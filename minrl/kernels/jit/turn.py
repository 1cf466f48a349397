"""Turns of processes at compiling a kernel: one compiles and keeps it on disk, the others read it."""

import contextlib
import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# Seconds to wait for another process; the largest kernel takes 20 on a machine that is not busy.
PATIENCE_S = 600.0
_POLL_S = 0.02


class Turn:
    """A lock of all processes on a file, released when its process ends.

    It does without where there are no locks, and no longer waits after `PATIENCE_S`: a kernel is then compiled twice.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1

    def take(self) -> None:
        """Wait until no other process has the lock, and take it."""
        if fcntl is None or self._handle >= 0:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            end = time.monotonic() + PATIENCE_S
            while not self._is_mine() and time.monotonic() < end:
                time.sleep(_POLL_S)

    def _is_mine(self) -> bool:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def give(self) -> None:
        """Release the lock if it is held."""
        if self._handle >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_UN)  # a forked process may have the handle too
            os.close(self._handle)
            self._handle = -1
