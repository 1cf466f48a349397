"""A run's log through Stable-Baselines3's logger: terminal, CSV and TensorBoard, continued on resume."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch import Tensor

from minrl.runs.folder import PROGRESS
from minrl.runs.log_files import NOT_TENSORBOARD, Cells, CsvFile, EventFile, Picture, is_log_of, read_cells, rows_digest
from minrl.runs.saved_state import check_numbers
from minrl.system.files import set_aside

__all__ = ["NOT_TENSORBOARD", "LossWindow", "Picture", "annotate", "open_log", "read_log", "silent_log", "sync_log"]

# Columns that count the steps of a run: gradient steps offline, environment steps online.
STEP, TIMESTEPS = "train/n_updates", "time/total_timesteps"
# Prefixes of columns that evaluations and validations log.
EVALUATED = ("eval/", "validation/")


def open_log(
    folder: Path,
    *,
    step: int = 0,
    repeats_evaluation: bool = False,
    repeats_row: bool = False,
    terminal: bool = True,
    counter: str = STEP,
    written: Any = None,
) -> Logger:
    """Open a logger into `folder` that keeps rows up to `step` (in units of `counter`) and drops later ones.

    A damaged `progress.csv` is kept as `progress.csv.damaged`, and the rows that can be read go on.

    Args:
        folder: of the run.
        step: of the checkpoint from which the run goes on.
        repeats_evaluation: drop the evaluation at `step` too, of held-out episodes and in the environment.
        repeats_row: drop all that was logged at `step`.
        terminal: print the rows.
        counter: column of the step.
        written: `log_digest` at the checkpoint; a line on standard error says if the rows are others now.
    """
    path = folder / PROGRESS
    rows, damage = read_cells(path, counter)
    if damage is None and not is_log_of(rows, written):
        damage = "its rows are not those that were written"
    if damage is not None and path.exists():
        set_aside(path, damage)
    elif damage is not None:
        print(f"minrl: {path} is missing: the log begins anew", file=sys.stderr, flush=True)
    last = step - 1 if repeats_row else step
    kept = [
        row
        for row in rows
        if float(row[counter]) <= last
        and not (repeats_evaluation and float(row[counter]) == step and any(name.startswith(EVALUATED) for name in row))
    ]
    repeats = repeats_evaluation or repeats_row
    again = _values(kept, counter, step) if repeats else {}
    formats: list[KVWriter] = [
        CsvFile(path, kept, counter),
        EventFile(folder, step if repeats else step + 1, again),
    ]
    if terminal:
        formats.append(HumanOutputFormat(sys.stdout))
    return Logger(str(folder), formats)


def _values(rows: list[Cells], counter: str, step: int) -> dict[str, float]:
    """Return the values that rows hold for a step, by name."""
    return {name: float(cell) for row in rows if float(row[counter]) == step for name, cell in row.items()}


def annotate(log: Logger, *summaries: Summary) -> None:
    """Write summaries other than curves (layouts, hyper-parameters) into the event files of `log`."""
    for output in log.output_formats:
        if isinstance(output, EventFile):
            for summary in summaries:
                output.add(summary, 0)


def sync_log(log: Logger) -> None:
    """Write the log through to disk, as before a checkpoint after which it continues."""
    for output in log.output_formats:
        if isinstance(output, CsvFile | EventFile):
            output.sync()


def log_digest(log: Logger) -> list[int]:
    """Return number and CRC-32 of the rows that `log` has written to its CSV file; of none without one."""
    return next((output.digest for output in log.output_formats if isinstance(output, CsvFile)), rows_digest([]))


def check_log(folder: Path, counter: str, written: Any) -> None:
    """Warn in a line on standard error if a run's `progress.csv` does not begin with the rows of `log_digest`."""
    if not is_log_of(read_cells(folder / PROGRESS, counter)[0], written):
        print(f"minrl: {folder / PROGRESS} is damaged or was edited: its curves may be wrong", file=sys.stderr)


def pending_row(log: Logger) -> dict[str, list[Any]]:
    """Return the values of the next row of `log` so far, plain or tensors, with their exclusions, by name."""
    found = {}
    for name, value in log.name_to_value.items():
        plain = torch.tensor(value) if isinstance(value, np.generic) else value
        found[name] = [plain, list(log.name_to_excluded[name] or ())]
    return found


def restore_row(log: Logger, row: dict[str, list[Any]]) -> None:
    """Begin the next row of `log` with what `pending_row` returned; raise ValueError for anything else."""
    for name, (value, excluded) in row.items():
        number = value.numpy()[()] if isinstance(value, Tensor) and value.dim() == 0 else value
        if (
            not isinstance(name, str)
            or not isinstance(number, int | float | np.number)
            or not isinstance(excluded, list)
        ):
            raise ValueError(f"its row of the log holds no number of {name!r}")
        log.record(name, number, exclude=tuple(excluded))


def silent_log() -> Logger:
    """Create a logger without outputs, for all processes but the first."""
    return Logger(None, [])


def read_log(folder: Path, counter: str = STEP) -> list[dict[str, float]]:
    """Read the rows of a run's `progress.csv` in order, without empty cells, damaged rows and a truncated last line.

    `counter` is the column of the step, which every complete row has.
    """
    rows, _ = read_cells(folder / PROGRESS, counter)
    return [{name: float(cell) for name, cell in row.items()} for row in rows]


class LossWindow:
    """Losses and gradient norms since the last row of the log; read from a GPU only once a row."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self._begin = time.perf_counter()
        self._counted = 0  # steps before this process's own

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Add loss and gradient norm of one gradient step, each of shape ()."""
        self.losses.append(loss)
        self.norms.append(norm)

    def is_finite(self) -> bool:
        """Return True if all losses and gradient norms are finite, or there are none."""
        return not self.losses or math.isfinite(torch.stack(self.losses + self.norms).double().sum().item())

    def close(self) -> tuple[float, float, float]:
        """Return mean loss, mean gradient norm and steps per second, and start the next row."""
        loss, norm = (torch.stack(values).mean().item() for values in (self.losses, self.norms))
        now = time.perf_counter()
        rate = (len(self.losses) - self._counted) / (now - self._begin)
        self.losses, self.norms, self._begin, self._counted = [], [], now, 0
        return loss, norm, rate

    def exclude_time(self, seconds: float) -> None:
        """Exclude time that was not spent on gradient steps from the rate."""
        self._begin += seconds

    def state_dict(self) -> dict[str, list[float]]:
        """Return the pending values, exactly: a float32 survives a Python float."""
        values = {"losses": self.losses, "norms": self.norms}
        return {name: torch.stack(given).tolist() if given else [] for name, given in values.items()}

    def load_state_dict(self, state: dict[str, list[float]], device: torch.device) -> None:
        """Restore what `state_dict` returned; raise ValueError for anything else."""
        for name in ("losses", "norms"):
            check_numbers(state[name], name)
        if len(state["losses"]) != len(state["norms"]):
            raise ValueError("its losses and gradient norms differ in number")
        self.losses = [torch.tensor(value, device=device) for value in state["losses"]]
        self.norms = [torch.tensor(value, device=device) for value in state["norms"]]
        self._counted = len(self.losses)
