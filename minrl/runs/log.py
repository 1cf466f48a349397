"""A run's log through Stable-Baselines3's logger: terminal, CSV and TensorBoard, continued on resume."""

import csv
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.logger import CSVOutputFormat, HumanOutputFormat, KVWriter, Logger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import scalar

from minrl.runs.folder import PROGRESS

# Columns that count the steps of a run: gradient steps offline, environment steps online.
STEP, TIMESTEPS = "train/n_updates", "time/total_timesteps"
# Prefixes of columns that evaluations and validations log.
EVALUATED = ("eval/", "validation/")


@dataclass(frozen=True)
class Picture:
    """PNG or animated GIF, shown in TensorBoard alone: record it with `exclude=NOT_TENSORBOARD`."""

    data: bytes  # of the file
    width: int
    height: int


NOT_TENSORBOARD = ("stdout", "csv")


def open_log(
    folder: Path, *, step: int = 0, repeats_evaluation: bool = False, terminal: bool = True, counter: str = STEP
) -> Logger:
    """Open a logger into `folder` that keeps rows up to `step` (in units of `counter`) and drops later ones.

    `repeats_evaluation` drops the evaluation at `step` itself too, of held-out episodes and in the environment.
    """
    formats: list[KVWriter] = [_csv(folder / PROGRESS, step, repeats_evaluation, counter), _EventFile(folder, step)]
    if terminal:
        formats.append(HumanOutputFormat(sys.stdout))
    return Logger(str(folder), formats)


def annotate(log: Logger, *summaries: Summary) -> None:
    """Write summaries other than curves (layouts, hyper-parameters) into the event files of `log`, and flush."""
    for output in log.output_formats:
        if isinstance(output, _EventFile):
            for summary in summaries:
                output.add(summary, 0)
            output.file.flush()


def silent_log() -> Logger:
    """Create a logger without outputs, for all processes but the first."""
    return Logger(None, [])


def read_log(folder: Path, counter: str = STEP) -> list[dict[str, float]]:
    """Read the rows of a run's `progress.csv` in order, without empty cells and without a truncated last line.

    `counter` is the column of the step, which every complete row has.
    """
    path = folder / PROGRESS
    if not path.is_file():
        return []
    # A kill truncates the last line, which may then look like a row with other values.
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in file if line.endswith("\n")]
    rows = [{k: _number(v) for k, v in row.items() if k and v} for row in csv.DictReader(lines)]
    return [{k: v for k, v in row.items() if v is not None} for row in rows if row.get(counter) is not None]


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _csv(path: Path, step: int, repeats_evaluation: bool, counter: str) -> CSVOutputFormat:
    """Copy the kept rows into a new CSV file that replaces the old one in one rename, so that no log is lost."""
    beside = path.with_name(f".{path.name}.new")
    output = CSVOutputFormat(str(beside))
    for row in read_log(path.parent, counter):
        again = repeats_evaluation and row[counter] == step and any(name.startswith(EVALUATED) for name in row)
        if row[counter] <= step and not again:
            output.write({k: int(v) if k == counter else v for k, v in row.items()}, {})
    beside.replace(path)
    return output


class _EventFile(KVWriter):
    """TensorBoard's events of numbers and pictures; it purges what an interrupted run logged after step `step`.

    Pictures are written as their files are; browsers play GIFs.
    """

    def __init__(self, folder: Path, step: int) -> None:
        _wait_for_a_later_second(folder)
        self.file = FileWriter(str(folder))
        # Events as of SummaryWriter's `purge_step`, which writes no pictures as they are.
        self.file.add_event(Event(step=step + 1, file_version="brain.Event:2"))
        self.file.add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write the values that are not excluded, in the order of their names."""
        for name, value in sorted(key_values.items()):
            if "tensorboard" in (key_excluded[name] or ()):
                continue
            if isinstance(value, Picture):
                image = Summary.Image(
                    encoded_image_string=value.data, height=value.height, width=value.width, colorspace=3
                )
                self.add(Summary(value=[Summary.Value(tag=name, image=image)]), step)
            else:
                self.add(scalar(name, value), step)
        self.file.flush()

    def add(self, summary: Summary, step: int) -> None:
        """Add a summary in TensorBoard's own format."""
        self.file.add_summary(summary, step)

    def close(self) -> None:
        """Close the file, flushed."""
        self.file.close()


def _wait_for_a_later_second(folder: Path) -> None:
    """Wait until the next event file's name sorts after those in `folder`.

    A name holds the second of its creation and then the process, and TensorBoard reads files in the order of names: of
    two files of one second the older could be read last, and its purge would hide the newer one's points.
    """
    opened = [name.split(".")[3] for name in (path.name for path in folder.glob("events.out.tfevents.*"))]
    latest = max((int(second) for second in opened if second.isdecimal()), default=0)
    # A file of another machine may lie in the future: do not wait for that.
    while latest == int(time.time()):
        time.sleep(1 - time.time() % 1)


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
        """Return True if all losses are finite, or there are none."""
        return not self.losses or math.isfinite(torch.stack(self.losses).sum().item())

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
        """Restore what `state_dict` returned."""
        self.losses = [torch.tensor(value, device=device) for value in state["losses"]]
        self.norms = [torch.tensor(value, device=device) for value in state["norms"]]
        self._counted = len(self.losses)
