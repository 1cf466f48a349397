"""The small files of a run beside its checkpoints: read whole or not at all, and rewritten if they are damaged."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from minrl.runs.folder import CONFIG, SUMMARY, TARGETS
from minrl.system.config import read_tables, to_plain, write_toml
from minrl.system.digests import checked, with_digest
from minrl.system.files import replacing, set_aside
from minrl.system.text_files import read_text

V = TypeVar("V")
D = TypeVar("D")


def read_json(path: Path, check: Callable[[Any], None]) -> Any:
    """Return the content of a JSON file, None without the file.

    Raises:
        ValueError: that names the file, if it is cut short or `check` finds something else in it than it should hold.
    """
    try:
        content = checked(json.loads(read_text(path)))
        check(content)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return content


def write_json(path: Path, values: Any) -> None:
    """Write a table, or a list of tables, as JSON with their CRC-32; the file appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(with_digest(values), indent=1) + "\n", encoding="utf-8")


def intact(path: Path, read: Callable[[], V], otherwise: D) -> V | D:
    """Return what `read` finds in `path`; if that is damaged set it aside for the caller to write it anew."""
    try:
        return read()
    except ValueError as error:
        set_aside(path, error)
        return otherwise


def read_targets(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of `targets.json`, each `Evaluation.to_dict()` and its `step`; none without the file.

    Raises:
        ValueError: if it is damaged.
    """
    rows: list[dict[str, Any]] = read_json(folder / TARGETS, _check_targets) or []
    return rows


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return a run's `summary.json`, which is written last; None without one.

    Raises:
        ValueError: if it is damaged.
    """
    summary: dict[str, Any] | None = read_json(folder / SUMMARY, _check_summary)
    return summary


def _check_targets(rows: Any) -> None:
    if not isinstance(rows, list):
        raise TypeError("it holds no list")
    for row in rows:
        _number(row["step"])
        _number(row["target_return"])
        _number(row["mean_return"])


def _check_summary(summary: Any) -> None:
    _number(summary["step"])
    if not isinstance(summary.get("evaluation_failure"), str | None):
        raise TypeError("evaluation_failure is no text")
    evaluation = summary["evaluation"]
    if evaluation is not None:
        _number(evaluation["mean_return"])
        _number(evaluation["episodes"])


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")


def check_config(folder: Path, parts: Mapping[str, Any]) -> None:
    """Report edits of a run's `config.toml`, which change nothing; write a damaged or missing one anew.

    Args:
        folder: of the run.
        parts: the settings in the checkpoint, which hold, by table.
    """
    path = folder / CONFIG
    if not path.exists():
        write_toml(path, parts)
        return
    try:
        tables = read_tables(path, "config")
        if lacking := [name for name in parts if not isinstance(tables.get(name), dict)]:
            raise ValueError(f"no table [{lacking[0]}]")
    except ValueError as error:
        set_aside(path, error)
        write_toml(path, parts)
        return
    changed = [
        f"{table}.{name} = {value!r}"
        for table, values in tables.items()
        if table in parts
        for name, value in values.items()
        if to_plain(parts[table]).get(name) != value
    ]
    if changed:
        print(
            f"minrl: {path} was edited ({', '.join(changed)}), which changes nothing: a resumed run keeps the settings "
            "of its checkpoint",
            file=sys.stderr,
        )
