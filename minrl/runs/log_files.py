"""The two files of a run's log: rows as CSV, curves and pictures as TensorBoard's events."""

import csv
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import scalar

from minrl.system.digests import digest
from minrl.system.files import flush, replacing

Cells = dict[str, str]  # a row's text by the names of its columns, without empty cells


@dataclass(frozen=True)
class Picture:
    """PNG or animated GIF, shown in TensorBoard alone: record it with `exclude=NOT_TENSORBOARD`."""

    data: bytes  # of the file
    width: int
    height: int


NOT_TENSORBOARD = ("stdout", "csv")


def read_cells(path: Path, counter: str) -> tuple[list[Cells], str | None]:
    """Read the rows of a CSV log; return them and a description of its damage, None if there is none.

    A last line without an end, which a kill leaves, is no damage. Rows that are damaged are left out: with another
    number of cells than columns, or cells that are no numbers.

    Args:
        path: of the log; a missing one has no rows.
        counter: column of the step, which every row has.
    """
    if not path.exists():
        return [], None
    if not path.is_file():
        return [], "it is no regular file"
    data = path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].decode("utf-8", errors="replace").replace("\0", "\ufffd").split("\n")[:-1]
    if not lines:
        return [], "it holds no line" if data else None
    table = [_split(line) for line in lines]
    names, rows = table[0], table[1:]
    if counter not in names or len(set(names)) < len(names) or any(not name.isprintable() for name in names):
        return [], "line 1 holds no names of columns"
    # A file of Stable-Baselines3 whose columns were being extended ends early.
    wrong = [number for number, row in enumerate(rows, start=2) if not _is_row(row, names, counter)]
    kept = [
        {name: cell for name, cell in zip(names, row, strict=True) if cell}
        for row in rows
        if _is_row(row, names, counter)
    ]
    return kept, f"line {wrong[0]} holds no row" if wrong else None


def rows_digest(rows: Iterable[Cells], before: Sequence[int] = (0, 0)) -> list[int]:
    """Return number and CRC-32 of rows, going on from those of earlier ones."""
    count, found = before
    for row in rows:
        count, found = count + 1, digest(row, found)
    return [count, found]


def is_log_of(rows: Sequence[Cells], written: Any) -> bool:
    """Return True if a log begins with the rows of a digest; a `written` of None, of older versions, fits any."""
    if written is None:
        return True
    counted = isinstance(written, list) and len(written) == 2 and all(isinstance(x, int) for x in written)
    return counted and rows_digest(rows[: written[0]]) == written


def _split(line: str) -> list[str]:
    """Return the cells of a line; none of one that is no CSV, such as with a carriage return in it."""
    try:
        return next(csv.reader([line.removesuffix("\r")]), [])
    except csv.Error:
        return []


def _is_row(row: Sequence[str], names: Sequence[str], counter: str) -> bool:
    if len(row) != len(names):
        return False
    try:
        numbers = {name: float(cell) for name, cell in zip(names, row, strict=True) if cell}
    except ValueError:
        return False
    return counter in numbers and math.isfinite(numbers[counter])


class AppendedFile:
    """File to which whole records are appended, each in one write; errors name it.

    Args:
        path: of the file.
        mode: "ab" to append, "xb" for a new file.
    """

    def __init__(self, path: Path, mode: str = "ab") -> None:
        self.path = path
        self._file: Any = path.open(mode, buffering=0)

    def write(self, data: bytes) -> None:
        """Append a record; raise OSError with the file's name if it cannot be written."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def sync(self) -> None:
        """Write all records through to disk."""
        flush(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvFile(KVWriter):
    """Rows in a CSV file, whose columns stand in the order in which they first appear.

    A row with new columns replaces the whole file, so that a kill leaves the old one or the new one.

    Args:
        path: of the file, which is replaced.
        rows: to begin with.
        counter: column of the step.
    """

    def __init__(self, path: Path, rows: Sequence[Cells], counter: str) -> None:
        self.path, self.counter, self.names = path, counter, list[str]()
        self.digest = rows_digest(rows)  # of all rows, as they were written
        self._replace(rows)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append the values that are not excluded as a row."""
        row = {name: str(value) for name, value in key_values.items() if "csv" not in (key_excluded.get(name) or ())}
        self.digest = rows_digest([{name: cell for name, cell in row.items() if cell}], self.digest)
        if row.keys() <= set(self.names):
            self.file.write(self._line(row))
            return
        self.file.close()
        self._replace([*read_cells(self.path, self.counter)[0], row])

    def _replace(self, rows: Sequence[Cells]) -> None:
        self.names = list(dict.fromkeys([*self.names, *(name for row in rows for name in row)]))
        with replacing(self.path) as draft:
            header = _csv_line(self.names) if self.names else b""
            draft.write_bytes(header + b"".join(self._line(row) for row in rows))
        self.file = AppendedFile(self.path)

    def _line(self, row: Cells) -> bytes:
        return _csv_line(row.get(name, "") for name in self.names)

    def sync(self) -> None:
        """Write the rows through to disk."""
        self.file.sync()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _csv_line(cells: Iterable[str]) -> bytes:
    escaped = (cell.replace('"', '""') for cell in cells)
    return (",".join(f'"{cell}"' if "," in cell or '"' in cell else cell for cell in escaped) + "\n").encode()


class EventFile(KVWriter):
    """TensorBoard's events of numbers and pictures, in a file whose name sorts after the folder's others.

    TensorBoard reads files in the order of their names, which begin with the second of their creation: this one has a
    later second than all that are there, wherever the clock stands. Pictures are written as their files are; browsers
    play GIFs.

    Args:
        folder: of the run.
        first: step from which on TensorBoard drops what earlier files hold.
        again: values of step `first` that are written again because of that, by name.
    """

    def __init__(self, folder: Path, first: int, again: Mapping[str, float]) -> None:
        second = max(int(time.time()), _latest_second(folder) + 1)
        name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self.file = AppendedFile(folder / name, "xb")
        flush(folder)
        self.records = RecordWriter(self.file)
        # The events of SummaryWriter's `purge_step`; SummaryWriter itself cannot write encoded pictures.
        self._add(Event(step=first, file_version="brain.Event:2"))
        self._add(Event(step=first, session_log=SessionLog(status=SessionLog.START)))
        for tag, value in again.items():
            self.add(scalar(tag, value), first)

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

    def add(self, summary: Summary, step: int) -> None:
        """Add a summary in TensorBoard's own format."""
        self._add(Event(step=step, summary=summary))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())

    def sync(self) -> None:
        """Write the events through to disk."""
        self.file.sync()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _latest_second(folder: Path) -> int:
    """Return the latest second in the names of a folder's event files, 0 without any."""
    opened = [name.split(".")[3] for name in (path.name for path in folder.glob("events.out.tfevents.*"))]
    return max((int(second) for second in opened if second.isdecimal()), default=0)
