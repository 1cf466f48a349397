"""A run's log through Stable-Baselines3's logger: terminal, CSV and TensorBoard, continued on resume."""

import csv
import sys
from pathlib import Path

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)

CSV = "progress.csv"
STEP = "train/n_updates"


def open_log(folder: Path, *, step: int = 0, terminal: bool = True) -> Logger:
    """A logger into `folder`; rows of `progress.csv` up to gradient step `step` are kept, later ones dropped."""
    formats: list[KVWriter] = [_csv(folder / CSV, step), TensorBoardOutputFormat(str(folder))]
    if terminal:
        formats.append(HumanOutputFormat(sys.stdout))
    return Logger(str(folder), formats)


def silent_log() -> Logger:
    """A logger that writes nowhere, for all processes but the first."""
    return Logger(None, [])


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's `progress.csv` in order, without what a row leaves empty."""
    path = folder / CSV
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if k and v} for row in csv.DictReader(file)]


def _csv(path: Path, step: int) -> CSVOutputFormat:
    """Written beside the old file and renamed over it, so that a log is never lost."""
    kept = [row for row in read_log(path.parent) if row.get(STEP, 0) <= step]
    beside = path.with_name(f".{path.name}.new")
    output = CSVOutputFormat(str(beside))
    for row in kept:
        output.write(row, {})
    beside.replace(path)
    return output
