"""Writing of files that are whole or absent after a crash, and what becomes of damaged and left-over ones."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from minrl.system.messages import one_line

DAMAGED = ".damaged"  # suffix of files that were set aside
_DRAFT = re.compile(r"\.(?P<name>.+?)\.(?:[0-9a-f]{16}\.new|\d+|new)")  # the last two: of older versions
_LONGEST = 255  # bytes of a file's name
# Errors of folders, or their file systems, that cannot be flushed.
_NO_FLUSH = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTSUP)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; at the end flush the file to disk and rename it to `path`.

    The folder is flushed too: after a crash or a power cut the old file is there or the new one, whole. On an error the
    temporary file is removed. Its name is random, as processes of two containers may have the same number.

    Raises:
        OSError: that names `path`, if it cannot be written; the old file is kept.
    """
    draft = path.with_name(draft_name(path.name))
    try:
        yield draft
        flush(draft)
        draft.replace(path)
        flush(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(draft), draft):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def draft_name(name: str) -> str:
    """Return a new name for the draft of a file, as long as a file system allows."""
    end = f".{secrets.token_hex(8)}.new"
    room = _LONGEST - len(end) - 1
    return f".{os.fsdecode(os.fsencode(name)[:room])}{end}"


def flush(path: Path) -> None:
    """Write a file or a folder through to disk; raise OSError with its name if that fails."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        if path.is_dir() and error.errno in _NO_FLUSH:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def open_regular(path: Path, flags: int) -> int:
    """Open a file to write to, which is made if it is missing; return its handle.

    A stranger's folder may hold a link to another file in its place, or a pipe that blocks.

    Raises:
        ValueError: if it is a link or no regular file.
        OSError: if it cannot be opened.
    """
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # not on Windows
    try:
        handle = os.open(path, flags | os.O_CREAT | more, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise ValueError(f"{path} is a link or a pipe, to which nothing is written: remove it") from error
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise ValueError(f"{path} is no regular file: remove it")


def open_appending(path: Path) -> TextIO:
    """Open a text file to append lines to; raise as `open_regular`."""
    return os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND), "a", buffering=1, encoding="utf-8")


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and its missing parents, each flushed to disk; return those that were missing, innermost first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        flush(place.parent)
    return missing


def remove_drafts(folder: Path, names: frozenset[str] | None = None) -> None:
    """Remove drafts of the named files, or of all, that killed processes have left.

    All that write these files must hold a lock, and so must the caller.
    """
    for path in folder.iterdir():
        found = _DRAFT.fullmatch(path.name)
        if found is not None and (names is None or found["name"] in names):
            path.unlink(missing_ok=True)


def set_aside(path: Path, reason: object) -> None:
    """Keep a damaged file as NAME.damaged and report it in one line; the caller writes `path` anew."""
    kept = path.with_name(path.name + DAMAGED)
    kept.unlink(missing_ok=True)
    try:
        os.link(path, kept)
    except OSError:  # a file system without links
        shutil.copyfile(path, kept)
    print(
        f"minrl: {path} is damaged ({one_line(reason)}): kept as {kept.name}, written anew",
        file=sys.stderr,
        flush=True,
    )
