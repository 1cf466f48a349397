"""Which runs of a comparison are to do, and what became of those that were tried."""

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from minrl.compare.grid.plan import NotDone, PlannedRun, write_state
from minrl.compare.run.execute import Outcome
from minrl.runs.folder import LAST_CHECKPOINT

FAILED, SKIPPED = "failed", "skipped"


class Ledger:
    """The runs to do, in order; a run that fails is put to the end once.

    Args:
        runs: to do.
        skipped: runs that cannot be done here, and why.
        out: the comparison's folder, whose `state.json` is kept as things stand.
    """

    def __init__(self, runs: Iterable[PlannedRun], skipped: Mapping[str, str], out: Path) -> None:
        self.pending = deque(runs)
        self.out = out
        self.done = 0
        self._failures: dict[str, str] = {}  # of the first attempt
        self._not_done = {key: NotDone(SKIPPED, reason) for key, reason in skipped.items()}
        self._reached: dict[str, int] = {}  # when the last checkpoint of an attempt's start was written
        write_state(self._not_done, out)

    @property
    def failed(self) -> dict[str, str]:
        """The runs that failed twice, and why."""
        return {key: entry.reason for key, entry in self._not_done.items() if entry.state == FAILED}

    def take(self) -> PlannedRun | None:
        """The next run, None where none is left."""
        if not self.pending:
            return None
        run = self.pending.popleft()
        self._reached[run.key] = self._checkpoint(run)
        return run

    def close(self, run: PlannedRun, outcome: Outcome) -> bool:
        """Note how an attempt ended; True where the run is tried again."""
        if outcome.error is None:
            self.done += 1
            return False
        if run.key in self._failures:
            self._not_done[run.key] = NotDone(FAILED, outcome.error)
            write_state(self._not_done, self.out)
            return False
        self._failures[run.key] = outcome.error
        self.pending.append(run)
        return True

    def lost(self, run: PlannedRun, reason: str) -> bool:
        """Note that the process of a run died; as a failure only where it had saved nothing new."""
        if self._checkpoint(run) == self._reached[run.key]:
            return self.close(run, Outcome(0.0, error=reason))
        self.pending.appendleft(run)
        return True

    def _checkpoint(self, run: PlannedRun) -> int:
        path = self.out / run.folder / LAST_CHECKPOINT
        return path.stat().st_mtime_ns if path.exists() else 0
