"""The files of a run's folder and of a comparison's, each named once."""

import json
from pathlib import Path
from typing import Any

# Of a run, here and on resume.
CONFIG = "config.toml"
LAST_CHECKPOINT, BEST_CHECKPOINT = "checkpoint.pt", "best.pt"
PREVIOUS_CHECKPOINT = "previous.pt"  # the one before the last, for when that is damaged
PROGRESS = "progress.csv"  # losses and evaluations
LEARNING_CURVE = "learning_curve.png"
VIDEOS = "videos"  # folder of GIFs
TARGETS, TARGETS_PLOT = "targets.json", "targets.png"  # evaluations at several target returns
TARGET_CHOICE = "target_choice.json"  # candidates of --choose-target
RETURNS_TO_GO, RELABEL_SUMMARY = "returns_to_go.npy", "relabel.json"  # of --relabel-returns
ERRORS = "errors.txt"  # tracebacks of failed evaluations
SUMMARY = "summary.json"  # written last
# Of a run in a comparison besides: what it printed.
LOG = "log.txt"
# Of a comparison: its plan, the runs without a result, the folder of its runs.
GRID, STATE, RUNS = "grid.toml", "state.json", "runs"


def read_targets(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of `targets.json`, each `Evaluation.to_dict()` and its `step`; none without the file."""
    path = folder / TARGETS
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return rows
