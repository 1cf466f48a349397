"""Configurations as frozen dataclasses, read from TOML files and command-line flags; unknown keys are errors.

A file has one table for each part ([train], [decision], ...) and holds only what differs from the defaults.
"""

import argparse
import copy
import dataclasses
import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from minrl.system.digests import with_comment
from minrl.system.files import replacing
from minrl.system.messages import one_line
from minrl.system.names import nearest
from minrl.system.shipped_configs import find_config
from minrl.system.text_files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

C = TypeVar("C")
LARGEST = 10**12  # of any whole number among settings
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # of 32 bits, in which agents calculate


def setting(default: C, text: str, **notes: str) -> C:
    """Return a dataclass field with a default, the help text of its flag and further entries of its metadata.

    A list or dict is copied for each instance.
    """
    metadata = {"help": text, **notes}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """Build a `kind` from plain values; raise ValueError naming a wrong key and `where` it stands."""
    return kind(**check(kind, values, where))


def check(kind: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check keys and types of some fields of a `kind` as `build` does, without the kind's own checks."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: the settings are no table")
    hints = get_type_hints(kind)
    checked = {}
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f'{where} has no key "{key}"; {nearest(key, hints)}')
        checked[key] = _checked(hints[key], value, f"{key} in {where}")
    return checked


def read_toml(path: Path | str, parts: Mapping[str, type[Any]]) -> dict[str, dict[str, Any]]:
    """Return the tables of a TOML file, one for each of `parts`; raise ValueError for any other table or a bad file.

    `path` is a file, or the name of a shipped config: "decision_transformer", "online/cartpole".
    """
    tables = read_tables(find_config(path), "config")
    for name, table in tables.items():
        if name not in parts or not isinstance(table, dict):
            raise ValueError(f'config {path} has an unknown table "{name}"; {nearest(name, parts)}')
        build(parts[name], table, f"[{name}] of {path}")
    return tables


def read_tables(path: Path, kind: str) -> dict[str, Any]:
    """Return the tables of a TOML file, unchecked; raise ValueError, which calls it a `kind`, if it cannot be read."""
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise ValueError(f"{kind} {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{kind} {path} is not TOML: {one_line(error)}") from error


def write_toml(path: Path, parts: Mapping[str, Any]) -> None:
    """Write every value of each part's dataclass except None; the file appears whole or not at all."""
    tables = {name: to_plain(part) for name, part in parts.items()}
    with replacing(path) as temporary:
        temporary.write_text(with_comment(tomli_w.dumps(tables)), encoding="utf-8")


def check_at_least(part: Any, bound: int, *names: str) -> None:
    """Raise ValueError if one of the named fields lies below `bound` or is NaN."""
    for name in names:
        value = getattr(part, name)
        if not value >= bound:
            raise ValueError(f"{name} must be at least {bound}, got {value}")


def check_at_most(part: Any, bound: int, *names: str) -> None:
    """Raise ValueError if one of the named fields lies above `bound`: a slip or a damaged file, and no plan."""
    for name in names:
        value = getattr(part, name)
        if value is not None and not value <= bound:
            raise ValueError(f"{name} must be at most {bound:,}, got {one_line(value, 40)}")


def check_finite(part: Any) -> None:
    """Raise ValueError if a field of a dataclass is infinite in float32 or NaN, or a whole number beyond `LARGEST`."""
    for item in dataclasses.fields(part):
        value = getattr(part, item.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{item.name} must be finite, got {value}")
        if isinstance(value, float) and abs(value) > _LARGEST_FLOAT:
            raise ValueError(f"{item.name} must be finite as a 32-bit float, which {value} is not")
        if isinstance(value, int):
            check_at_most(part, LARGEST, item.name)


def to_plain(part: Any) -> dict[str, Any]:
    """Convert a dataclass to plain values, leaving out None."""
    values = dataclasses.asdict(part)
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v is not None}


def add_flags(parser: argparse.ArgumentParser, kind: type[Any], title: str) -> None:
    """Add one flag for each field of a dataclass, with its help and default; unused flags stay unset."""
    group = parser.add_argument_group(title)
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        default = {} if item.default is dataclasses.MISSING else item.default
        shown = "" if default in (None, {}, "") else f" (default: {_shown(default)})"
        flag = "--" + item.name.replace("_", "-")
        options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS}
        hint = _without_none(hints[item.name])
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(hint) is dict:
            options |= {"type": key_value, "nargs": "+", "metavar": "KEY=VALUE"}
        elif get_origin(hint) is list:
            options |= {"type": str, "nargs": "+", "metavar": "NAME"}
        else:
            options["type"] = str if get_origin(hint) is Literal else hint
            is_choice = get_origin(hint) is Literal
            options["metavar"] = "{" + ",".join(get_args(hint)) + "}" if is_choice else _METAVARS[hint]
        group.add_argument(flag, help=item.metadata.get("help", "") + shown, **options)


def from_flags(kind: type[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `kind` that were set by flags."""
    names = {item.name for item in dataclasses.fields(kind)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    pairs = {n for n in given if get_origin(get_type_hints(kind)[n]) is dict}
    return {name: dict(value) if name in pairs else value for name, value in given.items()}


def key_value(text: str) -> tuple[str, Any]:
    """Parse "KEY=VALUE" into a pair; the value is read as TOML, else taken as text, but True and False as in Python."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f'"{text}" should read KEY=VALUE')
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # As text, both would count as true.
        return key, {"True": True, "False": False}.get(value, value)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type of `hint`; raise ValueError for another type."""
    optional = _without_none(hint) is not hint
    if value is None and optional:
        return None
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f'{where}: unknown value "{value}"; {nearest(str(value), get_args(hint))}')
        return value
    kind = get_origin(hint) or hint
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be of type {kind.__name__}, got {value!r}")
    return value


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


_METAVARS = {int: "N", float: "X", str: "NAME"}


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(default)
