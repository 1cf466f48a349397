"""Progress of a comparison, read from the logs of its runs on any machine, and the time left."""

import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from minrl.compare.grid.family import Family
from minrl.compare.grid.plan import PlannedRun
from minrl.runs.folder import PROGRESS
from minrl.runs.side_files import read_summary

_SECONDS = 2.0
_TAIL = 4096  # bytes: several rows of a log


class Progress:
    """Progress bar over the grid, updated by a thread, and a line for each run that ends.

    Args:
        runs: to do.
        families: of the runs' tasks, by name.
        out: the comparison's folder.
        finished: number of runs done before.
    """

    def __init__(
        self, runs: Iterable[PlannedRun], families: Mapping[str, Family], out: Path, *, finished: int = 0
    ) -> None:
        self.runs, self.families, self.out, self.finished = tuple(runs), families, out, finished
        self._ended: set[str] = set()
        self._begin, self._before = time.perf_counter(), sum(map(self._share, self.runs))
        # Saved now: during a run the streams lead into its log file.
        self._terminal = sys.stdout
        self._bar: Any = tqdm(
            total=len(self.runs),
            file=sys.stderr,
            leave=False,
            disable=None,
            bar_format="{percentage:3.0f}% |{bar}| {desc}",
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.close()

    def ended(self, run: PlannedRun, text: str) -> None:
        """Print the result of a run."""
        self._ended.add(run.key)
        counted = f"[{self.finished + len(self._ended)}/{self.finished + len(self.runs)}]"
        self.say(f"{counted} {run.task} · {run.method} · seed {run.seed}: {text}{self._left()}")

    def say(self, line: str) -> None:
        """Print a line beside the bar."""
        with self._bar.external_write_mode(file=self._terminal):
            print(line, file=self._terminal, flush=True)

    def _watch(self) -> None:
        while not self._stop.wait(_SECONDS):
            if not self._bar.disable:
                self._bar.n = round(self._complete(), 2)
                self._bar.set_description_str(f"{len(self._ended)} of {len(self.runs)} runs{self._left()}")

    def _left(self) -> str:
        """Estimate the time left, taking all runs as equally long."""
        complete = self._complete()
        if len(self._ended) == len(self.runs) or complete <= self._before:
            return ""
        seconds = (time.perf_counter() - self._begin) * (len(self.runs) - complete) / (complete - self._before)
        return f", {duration(seconds)} left"

    def _complete(self) -> float:
        return sum(1.0 if run.key in self._ended else self._share(run) for run in self.runs)

    def _share(self, run: PlannedRun) -> float:
        step = last_step(self.out / run.folder / PROGRESS, self.families[run.family].counter)
        return min(step / run.steps, 1.0)


def last_step(log: Path, counter: str) -> float:
    """Read the step of the last complete row of a run's log, 0 without one."""
    try:
        with log.open("rb") as file:
            names = file.readline().decode().strip().split(",")
            start = file.tell()
            file.seek(max(start, log.stat().st_size - _TAIL))
            rows = file.read().decode(errors="replace").split("\n")[:-1]
        return float(rows[-1].split(",")[names.index(counter)])
    except (OSError, ValueError, IndexError):
        return 0.0


def score_of(run: Path) -> str:
    """Format the score of a finished run."""
    values = (read_summary(run) or {}).get("evaluation")
    if values is None:
        return "no score"
    score = values["normalized_score"]
    return f"return {values['mean_return']:.1f}" if score is None else f"score {score:.1f}"


def duration(seconds: float) -> str:
    """Format a duration."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
