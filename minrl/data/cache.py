"""Cache of converted data sets as memory-mapped .npy files."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.data.convert import Allocate, Arrays, in_memory
from minrl.data.mapped import BYTES_AT_ONCE, reserve
from minrl.system.drafts import draft_folder
from minrl.system.files import flush, make_folder
from minrl.system.text_files import read_text

_log = logging.getLogger("minrl.data")

FORMAT_VERSION = 4  # raise it whenever the content of the files changes
_DRAFT = ".draft."  # beginning of the names of folders that are being filled
_DIGESTS = "digests.json"  # of the arrays' files; a cache without them was not written to its end
_NAMES = (
    "observations",
    "actions",
    "rewards",
    "final_observations",
    "offsets",
    "terminated",
    "truncated",
    "returns_to_go",
)
_OPTIONAL = "action_masks"


def cache_folder() -> Path:
    """Return $MINRL_CACHE, else ~/.cache/minrl."""
    return Path(os.environ.get("MINRL_CACHE") or Path.home() / ".cache" / "minrl")


def fingerprint(files: Iterable[Path], *extra: str) -> str:
    """Hash place, size and modification time of the source files, and `extra`, to a key."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, *extra]).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def cached(
    key: str, convert: Callable[[Allocate], Arrays], *, enabled: bool = True, folder: Path | None = None
) -> Arrays:
    """Return the arrays under `key`, converting them if they are not cached yet.

    With a `folder` they are always converted into it and mapped from there; if not `enabled`, in memory. They are
    written to a temporary folder and renamed, so that two processes may convert at once. If the cache cannot be
    written, a warning is given and the arrays stay in memory.
    """
    if folder is not None:
        _write(folder, convert)
        return _read(folder) or convert(in_memory)
    if not enabled:
        return convert(in_memory)
    folder = cache_folder() / key
    stored = _read(folder)
    if stored is not None:
        return stored
    try:
        make_folder(folder.parent)
        with draft_folder(folder.parent, _DRAFT) as draft:
            _write(draft, convert)
            _publish(draft, folder)
            flush(folder.parent)
    except OSError as error:
        return _without_cache(convert, error)
    return _read(folder) or convert(in_memory)


def _without_cache(convert: Callable[[Allocate], Arrays], error: OSError) -> Arrays:
    warnings.warn(f"data cache {cache_folder()} cannot be written ({error.strerror or error})", stacklevel=2)
    return convert(in_memory)


def _write(draft: Path, convert: Callable[[Allocate], Arrays]) -> None:
    def mapped(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        file = draft / f"{name}.npy"
        array: npt.NDArray[Any] = np.lib.format.open_memmap(file, mode="w+", dtype=np.dtype(dtype), shape=shape)
        with file.open("r+b") as handle:
            reserve(handle.fileno(), file.stat().st_size)
        return array

    arrays = convert(mapped)
    for array in arrays.values():
        if isinstance(array, np.memmap):
            array.flush()
    digests = {name: _digest(draft / f"{name}.npy") for name in arrays}
    (draft / _DIGESTS).write_text(json.dumps(digests), encoding="utf-8")


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if _read(folder) is None:  # not written by another process, but left over or damaged
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                folder.unlink()
            draft.rename(folder)


def _read(folder: Path) -> Arrays | None:
    """Return the mapped arrays of a folder; None if it has none, or they are not what was written."""
    try:
        digests = json.loads(read_text(folder / _DIGESTS))
        if not set(_NAMES) <= digests.keys() <= {*_NAMES, _OPTIONAL}:
            return None
        for name in digests:
            if _digest(folder / f"{name}.npy") != digests[name]:
                _log.warning("data cache %s is damaged (%s.npy), so the set is converted anew", folder, name)
                return None
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in digests}
    except (OSError, ValueError, EOFError, KeyError, TypeError, RecursionError):
        return None


def _digest(file: Path) -> int:
    """Compute the CRC-32 of a file, at about 3 GB/s."""
    if not file.is_file():
        raise ValueError(f"{file} is no regular file")
    digest = 0
    with file.open("rb") as handle:
        while piece := handle.read(BYTES_AT_ONCE):
            digest = zlib.crc32(piece, digest)
    return digest
