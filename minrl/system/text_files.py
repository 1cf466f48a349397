"""Reading of small, untrusted text files."""

import stat
from pathlib import Path

MOST_TEXT = 1 << 26  # bytes of a file that is read as text


def read_text(path: Path) -> str:
    """Return the text of a regular file in UTF-8.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no regular file (a pipe, a device), larger than `MOST_TEXT` bytes, or no UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is no regular file")
    if status.st_size > MOST_TEXT:
        raise ValueError(f"{path} has {status.st_size:,} bytes, and at most {MOST_TEXT:,} are read")
    return path.read_text(encoding="utf-8")
