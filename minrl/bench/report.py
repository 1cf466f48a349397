"""Results of a benchmark: table as Markdown, everything as JSON, in one folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minrl.bench.results import ERROR, FASTER, SHARE, Measurement, Point, Ratio, Skipped
from minrl.system.files import replacing

TABLE, NUMBERS = "bench.md", "bench.json"
FORMAT = "minrl bench 1"
# Load before the first measurement, as a share of the cores, above which the table warns.
_BUSY = 0.4
HEAD = ("what", "shape", "threads", "ratio", "of medians", "unit", "goal", "against")


def check_folder(folder: Path) -> None:
    """Create `folder`, which may hold earlier results of `minrl bench` but nothing else.

    Raises:
        ValueError: if it holds other files.
        OSError: if it cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        if not (folder / NUMBERS).exists():
            raise ValueError(f"{folder} is not empty and holds no earlier run of minrl bench; give another --out")
        check_file(folder / NUMBERS)


def check_file(path: Path) -> None:
    """Raise ValueError if the file at `path` exists and is not from `minrl bench`."""
    if not path.exists():
        if not path.parent.is_dir():
            raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
        return
    try:
        ours = json.loads(path.read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise ValueError(f"{path} exists and is not from minrl bench; it is not overwritten")


def to_json(results: Sequence[Measurement], machine: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return machine, settings, ratios with their times, skipped measurements and plot points."""
    return {
        "format": FORMAT,
        "machine": dict(machine),
        "settings": dict(settings),
        "figures": [_figure(result) for result in results if isinstance(result, Ratio)],
        "skipped": [vars(result) for result in results if isinstance(result, Skipped)],
        "points": [vars(result) for result in results if isinstance(result, Point)],
    }


def _figure(figure: Ratio) -> dict[str, Any]:
    times = {
        name: {"minimum_seconds": t.minimum, "median_seconds": t.median, "rounds": len(t.seconds)}
        for name, t in figure.times.items()
    }
    return {**vars(figure), "times": times, "value_text": format_value(figure.value, figure.unit)}


def to_markdown(results: Sequence[Measurement], machine: Mapping[str, Any], threads: Sequence[int]) -> str:
    """Format machine, table and notes."""
    rows = [_row(result) for result in results if isinstance(result, Ratio | Skipped)]
    lines = ["| " + " | ".join(row) + " |" for row in (HEAD, ["---"] * len(HEAD), *rows)]
    return "\n".join([_head(machine, threads), "", *lines, "", _FOOT, ""])


def to_line(result: Measurement) -> str:
    """Format a measurement as a line of progress; empty for a point of a plot."""
    if isinstance(result, Point):
        return ""
    if isinstance(result, Skipped):
        return f"{result.what}: not measured, {result.reason}"
    what, shape, threads, value, _, unit, _, against = _row(result)
    return " ".join(f"{what}, {shape}, threads {threads}: {value} {unit}, {against}".split())


def _row(result: Ratio | Skipped) -> Sequence[str]:
    if isinstance(result, Skipped):
        return (result.what, "", "", "not measured", "", "", "", result.reason)
    value = format_value(result.value, result.unit)
    median = "" if result.median is None else format_value(result.median, result.unit)
    goal = result.goal.replace("<=", "≤").replace(">=", "≥")
    unit = "" if result.unit == ERROR else result.unit
    return (result.what, result.shape, str(result.threads), value, median, unit, goal, _against(result))


def _against(figure: Ratio) -> str:
    """Return the peer, and its number of rounds if smaller than ours."""
    rounds = {name: len(times.seconds) for name, times in figure.times.items()}
    if len(set(rounds.values())) < 2:
        return figure.peer
    return f"{figure.peer} ({rounds['peer']} of {max(rounds.values())} rounds)"


def format_value(value: float, unit: str) -> str:
    """Format a value with its significant digits."""
    if unit == ERROR:
        return f"{value:.1e}"
    if unit == SHARE:
        return f"{100 * value:.1f} %"
    if unit == FASTER and value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _head(machine: Mapping[str, Any], threads: Sequence[int]) -> str:
    device = machine["gpu"] or machine["processor"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
    busy = machine["load"] and machine["load"][0] > _BUSY * machine["cores"]
    warning = (
        f" **Other programs ran too (load {machine['load'][0]}): ratios of several threads suffer.**" if busy else ""
    )
    return (
        f"{device} ({cores}, {machine['vector_instructions']}), {machine['system']}, threads "
        f"{' and '.join(map(str, threads))}; allocator: {machine['allocator']}; "
        f"our matmuls: {machine['matrix_products']}.\n"
        f"minrl {machine['minrl']}, Python {machine['python']}, torch {machine['torch']}, {packages}.{warning}"
    )


_FOOT = (
    "Every row is one interleaved run of both sides: the ratio of minima, and beside it the ratio of medians. With one "
    "thread it is CPU time, with more it is wall time."
)


def write(folder: Path, table: str, numbers: Mapping[str, Any], copy: Path | None) -> list[Path]:
    """Write the table and the JSON, and the JSON also to `copy`; return the files."""
    text = json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"
    files = {folder / TABLE: table, folder / NUMBERS: text}
    if copy is not None:
        files[copy] = text
    for path, content in files.items():
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return list(files)
