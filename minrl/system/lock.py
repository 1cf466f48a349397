"""A lock on a folder, for one process and one thread at a time; it ends with its process."""

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minrl.system.files import make_folder, open_regular

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_POLL = 0.1  # seconds
_held: dict[Path, tuple[int, int]] = {}  # locked files of this process: thread, file handle


@contextmanager
def folder_lock(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is missing, and removed again if it stays empty.

    The lock is the kernel's (flock): that of a dead process is free, as is one in a folder that was copied from another
    machine. A thread may take a lock that it holds. The processes that a holder forks do not hold it.

    Args:
        folder: to lock.
        patience: seconds to wait for another holder.

    Raises:
        ValueError: if another process or thread still holds it, or its file is a link or a pipe.
        OSError: if the folder cannot be written.
    """
    path = Path(os.path.realpath(folder)) / NAME  # resolve() raises RuntimeError for a link to itself
    mine = threading.get_ident()
    holder = _held.get(path)
    if holder is not None and holder[0] == mine:
        yield
        return
    made = make_folder(folder)
    handle = _acquire(path, folder, patience)
    _held[path] = (mine, handle)
    try:
        yield
    finally:
        if _held.pop(path, None) is not None:  # a forked process has left it already
            with contextlib.suppress(OSError):
                path.unlink()
                for place in made:
                    place.rmdir()  # an error, which ends the loop, unless it is empty
            os.close(handle)


def _acquire(path: Path, folder: Path, patience: float) -> int:
    """Open and lock a file; return its handle."""
    end = time.monotonic() + patience
    while True:
        handle = open_regular(path, os.O_RDWR)
        try:
            if _is_locked(handle, folder) and _is_file(handle, path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return handle
            holder = os.pread(handle, 300, 0).decode(errors="replace").strip()
        except OSError as error:  # of a handle, which names no file
            os.close(handle)
            raise OSError(error.errno, error.strerror, error.filename or str(path)) from error
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() >= end:
            known = f" ({holder})" if holder else ""
            raise ValueError(f"another process is at work in {folder}{known}: wait for it or stop it")
        time.sleep(_POLL)


def _is_locked(handle: int, folder: Path) -> bool:
    """Return True if this process now holds the lock; on a file system without locks warn and continue."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        print(f"minrl: {folder} lies on a file system without locks: start one process at a time", file=sys.stderr)
    return True


def _is_file(handle: int, path: Path) -> bool:
    """Return True if the handle's file still has its name: the last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """Close the locks in a forked process, which would hold them beyond the end of its parent."""
    for _, handle in _held.values():
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
