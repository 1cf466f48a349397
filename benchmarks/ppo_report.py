"""Tables and files of figures of the benchmarks of recurrent PPO."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def table(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for line in lines:
        print("| " + " | ".join(written(cell) for cell in line) + " |", flush=True)
    print()


def written(cell: Any) -> str:
    """Format a value with its significant digits."""
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if cell >= 100 else f"{cell:.2f}" if cell >= 1 else f"{cell:.3f}"


def save(result: dict[str, Any], path: Path | None) -> None:
    """Write `result` if a file is given, whole or not at all."""
    if path:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
