"""Opening of untrusted HDF5 files: nothing outside of the file is read, and no more than it holds.

HDF5 can name other files in three ways (external links, external storage, virtual data sets) and can declare an array
of any size in two thousand bytes. Only plain numbers and strings inside the file are accepted.
"""

import json
import os
import signal
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5l, h5t

from minrl.data.limits import MOST_UNPACKED, SMALL
from minrl.system.messages import faults_of, one_line
from minrl.system.trust import trusts_files

_SECONDS = 2  # of CPU time, for attributes
_KINDS = (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.STRING, h5t.BITFIELD)


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading, all of whose links lie inside it.

    Raises:
        ValueError: one line, if it is missing, empty, truncated, no HDF5, or links to another file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        file = h5py.File(path, "r", locking=False)  # a read-only network folder may allow no lock
    except OSError as error:
        reason = one_line(error)
        cut = "truncated file" in reason or path.stat().st_size == 0
        kind = "a truncated HDF5 file (copy or download it again)" if cut else "not a readable HDF5 file"
        raise ValueError(f"{path}: {kind}: {reason}") from error
    try:
        _check_links(file, path)
    except BaseException:
        file.close()
        raise
    return file


def has_link(path: Path, name: str) -> bool:
    """Return True if a file's root has a link of this name, which is not followed."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return bool(file.id.links.exists(name.encode()))
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: not a readable HDF5 file: {one_line(error)}") from error


def check_stored(source: h5d.DatasetID, where: str, *, frames: bool = False) -> None:
    """Check that an array lies in its own file and is about as large as it declares; `frames` may be of any length.

    Raises:
        ValueError: that begins with `where`.
    """
    layout = source.get_create_plist()
    if layout.get_external_count() or layout.get_layout() == h5d.VIRTUAL:
        raise ValueError(f"{where} lies in another file, which is not read")
    kind = source.get_type()
    if kind.get_class() not in _KINDS and not (_is_bytes(kind) and frames) and not _is_text(kind):
        raise ValueError(f"{where} holds neither numbers nor text")
    stored, size = source.get_storage_size(), kind.get_size()
    sizes = [int(np.prod(source.shape, dtype=object)) * size]
    if layout.get_layout() == h5d.CHUNKED:
        sizes.append(int(np.prod(layout.get_chunk(), dtype=object)) * size)
    if max(sizes) > SMALL + MOST_UNPACKED * stored and not trusts_files():
        raise ValueError(
            f"{where} declares {max(sizes):,} bytes and holds {stored:,}: more than {MOST_UNPACKED:,} times as much, "
            "so it is not read without --trust (in Python MINRL_TRUST=1)"
        )


def rows_of(source: h5py.File, key: str, rows: slice) -> npt.NDArray[Any]:
    """Read rows of an array; raise ValueError, one line that names file and key, if they cannot be read."""
    with faults_of(f"{source.filename}: {key}"):
        found: npt.NDArray[Any] = source[key][rows]
        return found


def attributes_of(source: h5py.File, names: Iterable[str]) -> dict[str, Any]:
    """Read those of the named attributes that the file has: numbers, flags and text.

    A child process reads them: on some damaged ones libhdf5 2.0 turns in a loop that no signal handler of Python ends.

    Raises:
        ValueError: one line, if they cannot be read.
    """
    where = f"{source.filename}: its attributes"
    with faults_of(where):
        present = [name for name in names if name in source.attrs]
        if not present or not hasattr(os, "fork"):
            return {name: _plain(source.attrs[name]) for name in present}
        found = _read_in_child(Path(source.filename), present)
        if found is None:
            raise ValueError(f"{where} are damaged")
        return found


def _read_in_child(path: Path, names: list[str]) -> dict[str, Any] | None:
    """Read attributes in a child process of limited time; return None if it fails."""
    import resource  # POSIX alone has it, and fork

    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: the child calls nothing but libhdf5
        child = os.fork()
    if child == 0:
        try:
            signal.setitimer(signal.ITIMER_PROF, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
            with h5py.File(path, "r", locking=False) as file:
                text = json.dumps({name: _plain(file.attrs[name]) for name in names})
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                pipe.write(text)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return dict(json.loads(text)) if status == 0 else None


def _plain(value: Any) -> Any:
    """Return the value of an attribute as a number, a flag or text."""
    value = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, bool | int | float) else str(value)


def _check_links(file: h5py.File, path: Path) -> None:
    def other(name: bytes, info: Any) -> bytes | None:
        """Return the name of a link that leaves the file, which ends the search."""
        return None if info.type in (h5l.TYPE_HARD, h5l.TYPE_SOFT) else name

    try:
        found = file.id.links.visit(other, info=True)
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(f"{path}: its groups cannot be read: {one_line(error)}") from error
    if found is not None:
        name = found.decode(errors="replace")
        raise ValueError(f"{path}: {one_line(name)} is a link to another file, which is not followed")


def _is_bytes(kind: h5t.TypeID) -> bool:
    """Return True if a type is a sequence of bytes, as Minari stores JPEG frames."""
    return isinstance(kind, h5t.TypeVlenID) and kind.get_super().get_class() == h5t.INTEGER


def _is_text(kind: h5t.TypeID) -> bool:
    return bool(kind.get_class() == h5t.STRING)
