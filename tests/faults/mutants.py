"""Mutations of files: of their bytes, of single values, and of their structure."""

import copy
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
# Values that a reader may not expect in place of its own.
VALUES: tuple[Any, ...] = (
    None, "", "x", "x" * 10_000, "../../etc/passwd", "\x00\x1b[2J", -1, 0, 1, 2**31, 2**63, 10**30, 9 * 10**15,
    0.5, -0.0, math.nan, math.inf, -math.inf, 1e308, True, False, [], {}, [None], [[1], [2, 3]],
    {"a": {"b": None}}, DEEP,
)  # fmt: skip
_INTERESTING = (b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, (2**31).to_bytes(8, "little"), b"\r\n", b"\x80", b"(")


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return `content` with one to four changes of its bytes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        if not data:
            data = bytearray(draw.randbytes(16))
        at, size = draw.randrange(len(data)), draw.randint(1, 64)
        kind = draw.randrange(8)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.randrange(256)
        elif kind == 2:
            data[at : at + size] = draw.randbytes(min(size, len(data) - at))
        elif kind == 3:
            put = draw.choice(_INTERESTING)
            data[at : at + len(put)] = put
        elif kind == 4:
            del data[at : at + size]
        elif kind == 5:
            data[at:at] = draw.randbytes(size)
        elif kind == 6:
            data[at:at] = data[at : at + size]
        else:
            del data[at:]
    return bytes(data)


def places_of(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the keys and indices that lead to each part of a nested value."""
    found = [place] if place else []
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, part in inner:
        found += places_of(part, (*place, key))
    return found


def mutate_value(value: Any, draw: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    """Return a nested value in which one or two parts are replaced, removed, renamed or moved."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 2)):
        places = places_of(value)
        if not places:
            return draw.choice(values)
        *way, last = draw.choice(places)
        parent = value
        for key in way:
            parent = parent[key]
        kind = draw.randrange(6)
        if kind == 0 and isinstance(parent, dict):
            parent[draw.choice(["", "x" * 2000, f"{last} ", "class", "__init__"])] = parent.pop(last)
        elif kind == 1:
            del parent[last]
        elif kind == 2:
            other = value
            for key in draw.choice(places):
                other = other[key] if isinstance(other, dict | list) and _has(other, key) else other
            parent[last] = copy.deepcopy(other)
        else:
            parent[last] = copy.deepcopy(draw.choice(values))
    return value


def _has(value: Any, key: Any) -> bool:
    return key in value if isinstance(value, dict) else isinstance(key, int) and key < len(value)


def mutate_json(file: Path, draw: random.Random) -> None:
    """Change values of a JSON file, or of JSON within its texts."""
    value = json.loads(file.read_text())
    texts = [key for key, part in value.items() if _is_json(part)] if isinstance(value, dict) else []
    if texts and draw.random() < 0.6:
        key = draw.choice(texts)
        value[key] = json.dumps(mutate_value(json.loads(value[key]), draw))
    else:
        value = mutate_value(value, draw)
    file.write_text(json.dumps(value))


def _is_json(part: Any) -> bool:
    return isinstance(part, str) and part.startswith("{")


def mutate_structure(file: Path, draw: random.Random) -> None:
    """Replace a file by something else: nothing, a folder, a pipe, a link, a device, or another file of the folder."""
    others = [path for path in sorted(file.parent.rglob("*")) if path.is_file() and path != file]
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        file.mkdir,
        lambda: os.mkfifo(file),
        lambda: file.symlink_to("/dev/zero"),
        lambda: file.symlink_to(file.name),
        lambda: file.symlink_to("/"),
        lambda: file.write_bytes(b""),
        lambda: file.write_bytes(b"\x00" * 4096),
        lambda: file.write_text("[" * 50_000),
        lambda: file.write_text('{"a":' * 20_000),
        lambda: file.write_text("9" * 10_000),
        lambda: shutil.copyfile(draw.choice(others), file) if others else None,
    ]
    chosen = draw.choice(kinds)
    file.unlink()
    chosen()
