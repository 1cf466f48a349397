"""The queue of runs to do, and the record of those that failed."""

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from minrl.compare.grid.plan import NotDone, PlannedRun, write_state
from minrl.compare.run.execute import Outcome
from minrl.runs.folder import LAST_CHECKPOINT

FAILED, SKIPPED = "failed", "skipped"


class RunQueue:
    """Queue of runs; a run that fails is retried once, at the end.

    Args:
        runs: to execute.
        skipped: keys of runs that are unavailable here, with the reason.
        out: the comparison's folder, whose `state.json` is kept up to date.
        others: entries of `state.json` for runs that are not tried this time.
    """

    def __init__(
        self,
        runs: Iterable[PlannedRun],
        skipped: Mapping[str, str],
        out: Path,
        others: Mapping[str, NotDone] | None = None,
    ) -> None:
        self.pending = deque(runs)
        self.out = out
        self.done = 0
        self._failures: dict[str, str] = {}  # of the first attempt
        self._not_done = {key: NotDone(SKIPPED, reason) for key, reason in skipped.items()}
        self._others = dict(others or {})
        self._reached: dict[str, int] = {}  # time of the last checkpoint when an attempt started
        self._write()

    @property
    def failed(self) -> dict[str, str]:
        """The runs that failed twice, and why."""
        return {key: entry.reason for key, entry in self._not_done.items() if entry.state == FAILED}

    def take(self) -> PlannedRun | None:
        """Take the next run, None if none is left."""
        if not self.pending:
            return None
        run = self.pending.popleft()
        self._reached[run.key] = self._checkpoint(run)
        return run

    def close(self, run: PlannedRun, outcome: Outcome) -> bool:
        """Record the end of an attempt; return True if the run is retried."""
        if outcome.error is None:
            self.done += 1
            return False
        if run.key in self._failures:
            self._not_done[run.key] = NotDone(FAILED, outcome.error)
            self._write()
            return False
        self._failures[run.key] = outcome.error
        self.pending.append(run)
        return True

    def lost(self, run: PlannedRun, reason: str) -> bool:
        """Record that the process of a run died: a failure only if it had saved no new checkpoint."""
        if self._checkpoint(run) == self._reached[run.key]:
            return self.close(run, Outcome(0.0, error=reason))
        self.pending.appendleft(run)
        return True

    def _write(self) -> None:
        write_state(self._others | self._not_done, self.out)

    def _checkpoint(self, run: PlannedRun) -> int:
        path = self.out / run.folder / LAST_CHECKPOINT
        return path.stat().st_mtime_ns if path.exists() else 0
