"""Comparison of a run that was killed with one that was not: all but times."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minrl.runs import checkpoint
from minrl.runs.folder import (
    BEST_CHECKPOINT,
    CONFIG,
    GRID,
    LAST_CHECKPOINT,
    PROGRESS,
    RELABEL_SUMMARY,
    RETURNS_TO_GO,
    STATE,
    SUMMARY,
    TARGET_CHOICE,
    TARGETS,
)

# Keys of measured times.
CLOCK = ("seconds", "cpu_seconds", "time/", "steps_per_second", "training_seconds", "training_cpu_seconds",
         "seconds_per_training_step", "seconds_per_action", "crc32")  # fmt: skip
_EQUAL = (CONFIG, TARGETS, TARGET_CHOICE, RETURNS_TO_GO, RELABEL_SUMMARY)  # byte by byte
_ALL = {"scalars": 0, "images": 0, "tensors": 0}


def differences(whole: Path, killed: Path) -> list[str]:
    """List what differs between two folders of runs, or of comparisons."""
    if (whole / GRID).exists():
        runs = sorted(path.parent.relative_to(whole) for path in whole.glob(f"runs/*/*/*/{SUMMARY}"))
        texts = [GRID, STATE, "report/report.md", "report/scores.csv", "report/statistics.csv"]
        found = [name for name in texts if _bytes(whole / name) != _bytes(killed / name)]
        return found + [f"{run}: {text}" for run in runs for text in differences(whole / run, killed / run)]
    return [
        *(name for name in _EQUAL if _bytes(whole / name) != _bytes(killed / name)),
        *(name for name in (LAST_CHECKPOINT, BEST_CHECKPOINT) if not same_checkpoint(whole / name, killed / name)),
        *([PROGRESS] if rows(whole) != rows(killed) else []),
        *([SUMMARY] if _summary(whole) != _summary(killed) else []),
        *(f"TensorBoard's {tag}" for tag in _different_curves(whole, killed)),
        *(f"left over: {name}" for name in sorted(_names(killed) - _names(whole))),
        *(f"missing: {name}" for name in sorted(_names(whole) - _names(killed))),
    ]


def rows(run: Path) -> list[list[tuple[str, str]]]:
    """Return names and text of the log's cells, row by row, without times."""
    with (run / PROGRESS).open(newline="", encoding="utf-8") as file:
        return [[(k, v) for k, v in row.items() if v and not k.startswith("time/")] for row in csv.DictReader(file)]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of TensorBoard's curves by tag, without times."""
    events = EventAccumulator(str(run), size_guidance=_ALL).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def same_checkpoint(one: Path, other: Path) -> bool:
    """Return True if two checkpoints hold the same bits but for times."""
    if not one.exists() or not other.exists():
        return one.exists() == other.exists()
    first, second = (vars(checkpoint.read(path)) for path in (one, other))
    return _same(first, second)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        # A run that repeats its last evaluation keeps the checkpoint from before it: of a row still to be written.
        if "row" in one and isinstance(other, dict) and other["row"] != one["row"]:
            one, other = ({k: v for k, v in d.items() if k not in ("row", "best", "evaluated")} for d in (one, other))
        # Stable-Baselines3's episodes: return, length, and the time of their end.
        one, other = (
            {**d, "episodes": [e[:2] for e in d["episodes"]]} if isinstance(d.get("episodes"), list) else d
            for d in (one, other)
        )
        names = [name for name in one if not _is_measured(name)]
        same = isinstance(other, dict) and names == [name for name in other if not _is_measured(name)]
        return same and all(_same(one[name], other[name]) for name in names)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)


def _different_curves(whole: Path, killed: Path) -> list[str]:
    first, second = curves(whole), curves(killed)
    return sorted(tag for tag in first.keys() | second.keys() if first.get(tag) != second.get(tag))


def _summary(run: Path) -> dict[str, Any]:
    values = json.loads((run / SUMMARY).read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if not _is_measured(name)}


def _is_measured(name: Any) -> bool:
    """Return True if a value is a time, or the checksum of a log, in which times are."""
    return str(name).startswith(CLOCK) or name == "log"


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _names(run: Path) -> set[str]:
    # A comparison's log.txt says when a process began; TensorBoard's files hold its name.
    return {path.name for path in run.iterdir() if "tfevents" not in path.name}
