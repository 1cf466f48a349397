"""Check of a checkpoint's ZIP archive before torch reads it: damage, code, and sizes that the file does not hold.

torch tests no checksum, so that a flipped bit loads as another value. Before 2.6 it also ran the code of a TorchScript
archive (CVE-2025-32434), and it believes the number of elements that the pickle states for a tensor.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

_ITEMS = {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4, "Half": 2, "Short": 2}
_ITEMS |= {"BFloat16": 2, "Byte": 1, "Char": 1, "Bool": 1, "Untyped": 1}
# What reading a malformed archive raises.
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeError, RuntimeError, OverflowError)
_PIECE = 1 << 20  # bytes read at once
_LEGACY_PICKLES = 4  # magic number, version, sizes of C's types, the object itself


class DamagedFileError(ValueError):
    """Error of a file whose content was damaged, or that was not written to its end."""


def check_archive(file: Path, content: bytes | None = None, *, largest_pickle: int | None = None) -> None:
    """Check the archive at `file` as `torch.save` writes it: stored records, each with a CRC-32.

    Args:
        file: path of the archive, which errors name.
        content: its bytes, if the archive lies inside `file`.
        largest_pickle: bytes that names and shapes may take; reading them takes a hundred times as many.

    Raises:
        DamagedFileError: if it is no such archive, cut short, or a record fails its CRC-32.
        ValueError: if it holds code, or tensors larger than their records.
    """
    damaged = DamagedFileError(f"checkpoint {file} is damaged or cut short or no checkpoint; nothing was loaded")
    size = file.stat().st_size if content is None else len(content)
    try:
        with zipfile.ZipFile(file if content is None else io.BytesIO(content)) as archive:
            records = {_inner(entry.filename): entry for entry in archive.infolist()}
            # torch compares names without their case, and may read another entry of a name than Python does.
            if len({name.lower() for name in records}) < len(archive.infolist()):
                raise damaged
            if _holds_code(records):
                raise ValueError(f"checkpoint {file} is a TorchScript archive, which holds code; refused")
            sizes = sum(entry.file_size for entry in archive.infolist())
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            if not stored or sizes > size or "data.pkl" not in records:
                raise damaged
            if largest_pickle is not None and records["data.pkl"].file_size > largest_pickle:
                raise ValueError(f"{file}: its pickle has more than {largest_pickle:,} bytes; refused")
            for entry in archive.infolist():
                _read_to_the_end(archive, entry)
            storages = _storages(archive.read(records["data.pkl"]))
    except ZIP_ERRORS as error:
        raise damaged from error
    if storages is None:
        raise damaged
    for key, declared in storages:
        record = records.get(f"data/{key}")
        if record is None or record.file_size < declared:
            raise ValueError(f"checkpoint {file} declares a tensor of {declared} bytes that it does not hold; refused")


def check_legacy(file: Path, content: bytes, *, largest_pickle: int) -> None:
    """Check the bytes of a file inside `file` that torch wrote before 1.6: pickles, then the storages.

    It has no checksum of its own. Its pickles may have `largest_pickle` bytes, as in `check_archive`.

    Raises:
        DamagedFileError: if it cannot be read.
        ValueError: if it declares more bytes of tensors than it holds.
    """
    stream, sizes = io.BytesIO(content[:largest_pickle]), dict[str, int]()
    try:
        for _ in range(_LEGACY_PICKLES):
            reader = _Sizes(stream)
            reader.load()
            sizes |= dict(reader.found)
    except Exception as error:  # a malformed pickle may raise anything
        raise DamagedFileError(f"checkpoint {file} is damaged or cut short; nothing was loaded") from error
    if sum(sizes.values()) > len(content):
        raise ValueError(
            f"checkpoint {file} declares tensors of {sum(sizes.values())} bytes that it does not hold; refused"
        )


def is_sound(file: Path) -> bool:
    """Return True if there is an archive at `file` that passes `check_archive`."""
    try:
        check_archive(file)
    except (ValueError, OSError):
        return False
    return True


def _inner(name: str) -> str:
    """Return a record's name below the archive's own folder."""
    return name.partition("/")[2]


def _holds_code(records: dict[str, zipfile.ZipInfo]) -> bool:
    return any(name.lower().startswith("code/") or name.lower() == "constants.pkl" for name in records)


def _read_to_the_end(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read a record, which compares its CRC-32; raise BadZipFile if it differs."""
    with archive.open(entry) as record:
        while record.read(_PIECE):
            pass


class _Stub:
    """Stand-in for any class or function that a pickle names; it does nothing."""

    def __new__(cls, *arguments: Any, **options: Any) -> "_Stub":
        """Return a stub, whatever the arguments."""
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop the item."""

    def append(self, value: Any) -> None:
        """Drop the value."""

    def extend(self, values: Any) -> None:
        """Drop the values."""


def _check_keys(keys: Sequence[Any]) -> None:
    if not all(isinstance(key, str | int | float | bytes | None) for key in keys):
        raise pickle.UnpicklingError("a key has parts")


def _set_item(reader: Any) -> None:
    _check_keys(reader.stack[-2:-1])
    _READ[pickle.SETITEM[0]](reader)


def _set_items(reader: Any) -> None:
    _check_keys(reader.stack[::2])
    _READ[pickle.SETITEMS[0]](reader)


def _make_dict(reader: Any) -> None:
    _check_keys(reader.stack[::2])
    _READ[pickle.DICT[0]](reader)


_READ: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch
_SETS = {code[0] for code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)}
_CHECKED = {pickle.SETITEM[0]: _set_item, pickle.SETITEMS[0]: _set_items, pickle.DICT[0]: _make_dict}


# Written in Python: the one in C allocates as many objects as a damaged file states.
class CheapUnpickler(pickle._Unpickler):
    """Unpickler whose time and memory go with the bytes of the file; subclasses say what a class becomes.

    Some tuples that hold each other twice stand for billions of elements, and hashing one takes minutes: no mapping has
    such keys, and there are no sets.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: read for code, read in (_READ | _CHECKED).items() if code not in _SETS
    }


class _Sizes(CheapUnpickler):
    """Unpickler that imports nothing and notes the storages that tensors refer to."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.found: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        """Return the element size of a storage's class, else a stub."""
        if module.startswith("torch") and name.endswith("Storage"):
            return _ITEMS.get(name.removesuffix("Storage"), 1)
        return _Stub

    def persistent_load(self, reference: Any) -> None:
        """Note a storage: ("storage", class, key, device, elements), and before torch 1.6 a view of another."""
        _, item, key, _, elements = reference[:5]
        if not isinstance(key, str | int):
            raise DamagedFileError("the key of a storage has parts")
        self.found.append((str(key), (item if isinstance(item, int) else 1) * int(elements)))


def _storages(content: bytes) -> list[tuple[str, int]] | None:
    """Return the key and the stated bytes of each storage of a pickle; None for one that cannot be read."""
    reader = _Sizes(io.BytesIO(content))
    try:
        reader.load()
    except Exception:  # a malformed pickle may raise anything
        return None
    return reader.found
