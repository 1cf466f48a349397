"""Converted sets kept as .npy files, so that they are converted once and memory-mapped after."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.data.convert import Allocate, Arrays, in_memory
from minrl.data.mapped import reserve

FORMAT_VERSION = 3  # raise it whenever what the files hold changes
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


def cache_folder() -> Path:
    """$MINRL_CACHE, else ~/.cache/minrl."""
    return Path(os.environ.get("MINRL_CACHE") or Path.home() / ".cache" / "minrl")


def fingerprint(files: Iterable[Path], *extra: str) -> str:
    """A key that changes with the place, size or modification time of any source file."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, *extra]).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def cached(
    key: str, convert: Callable[[Allocate], Arrays], *, enabled: bool = True, folder: Path | None = None
) -> Arrays:
    """Return the arrays under `key`, converted now if they are not there yet.

    With a `folder` they are converted into it, whatever the cache holds, and mapped from there; not `enabled` is in
    memory. Written beside their final place and renamed, so that two processes may do so at once. A cache folder that
    cannot be written costs a warning, and the arrays stay in memory.
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
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
    except OSError as error:
        return _without_cache(convert, error)
    try:
        _write(draft, convert)
        _publish(draft, folder)
    except OSError as error:
        return _without_cache(convert, error)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
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


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if _read(folder) is None:  # not another process that was first, but remains of another kind
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                folder.unlink()
            draft.rename(folder)


def _read(folder: Path) -> Arrays | None:
    try:
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _NAMES}
    except (OSError, ValueError, EOFError):
        return None
