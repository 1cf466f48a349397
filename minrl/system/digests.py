"""CRC-32 of values inside their own file, as JSON and TOML have no checksum: a flipped bit leads to another number.

A file without one passes, as do files of older versions.
"""

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

KEY = "crc32"
_COMMENT = re.compile(r"# crc32 = ([0-9a-f]{8})\n?\Z")


def digest(values: Any, before: int = 0) -> int:
    """Compute the CRC-32 of plain values, whatever the order of their keys, going on from that of others."""
    return zlib.crc32(json.dumps(values, sort_keys=True, separators=(",", ":")).encode(), before)


def with_digest(values: Any) -> Any:
    """Return a table with its CRC-32 under `KEY`; of a list, each table with its own."""
    if isinstance(values, list):
        return [with_digest(value) for value in values]
    return {**values, KEY: digest(json.loads(json.dumps(values)))}


def checked(values: Any, but: frozenset[str] = frozenset()) -> Any:
    """Return what `with_digest` was given; the keys `but` are no part of the CRC-32.

    Raises:
        ValueError: if the values are others than those of the CRC-32.
    """
    if isinstance(values, list):
        return [checked(value) for value in values]
    if not isinstance(values, Mapping) or KEY not in values:
        return values
    kept = {name: value for name, value in values.items() if name != KEY}
    if digest({name: value for name, value in kept.items() if name not in but}) != values[KEY]:
        raise ValueError(f'its values are not those of its CRC-32: it was damaged, or edited without removing "{KEY}"')
    return kept


def with_comment(text: str) -> str:
    """Return TOML with its CRC-32 in a comment on the last line."""
    return f"{text}# crc32 = {zlib.crc32(text.encode()):08x}\n"


def check_comment(text: str) -> str:
    """Return a text; raise ValueError if its last line is a CRC-32 of `with_comment`, and of another text."""
    found = _COMMENT.search(text)
    if found is not None and zlib.crc32(text[: found.start()].encode()) != int(found[1], 16):
        raise ValueError("its text is not that of its CRC-32: it was damaged, or edited without removing the last line")
    return text
