"""The best checkpoint of a run, never of a later step than the last checkpoint."""

import math
import sys
from pathlib import Path
from typing import Any

from minrl.agent import Actor
from minrl.runs import checkpoint
from minrl.runs.folder import BEST_CHECKPOINT, NEXT_BEST
from minrl.system.files import flush, set_aside


class BestCheckpoint:
    """Best checkpoint of a run's evaluations.

    A run that resumes from its last checkpoint may train other weights than before it was killed. So weights of a later
    step than the last checkpoint's stay in `NEXT_BEST` until a checkpoint of that step is saved.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.score, self._saved = folder, -math.inf, -1

    def offer(self, agent: Actor, step: int, score: float, note: dict[str, Any]) -> None:
        """Save the weights of `step` if its `score` is better than all before."""
        if not score > self.score:
            return
        self.score = score
        name = BEST_CHECKPOINT if step <= self._saved else NEXT_BEST
        checkpoint.save(self.folder / name, agent, step=step, note=note)

    def settle(self, step: int) -> None:
        """Move the weights in `NEXT_BEST` to `BEST_CHECKPOINT`: the last checkpoint, of `step`, has been saved."""
        self._saved = step
        waiting = self.folder / NEXT_BEST
        if waiting.exists():
            waiting.replace(self.folder / BEST_CHECKPOINT)
            flush(self.folder)

    def restore(self, score: float, step: int) -> None:
        """Restore the best score of a last checkpoint of `step`; remove weights of later steps.

        Without the weights that had the best score, those of the next evaluation are the best.
        """
        self.score, self._saved = score, step
        found = _read(self.folder / NEXT_BEST)
        if found is not None and found.step <= step and _score(found) == score:
            self.settle(step)
        (self.folder / NEXT_BEST).unlink(missing_ok=True)
        path = self.folder / BEST_CHECKPOINT
        kept = _read(path)
        if kept is not None and kept.step > step:
            print(f"minrl: {path} is of step {kept.step}, after the last checkpoint: removed", file=sys.stderr)
            path.unlink()
        elif kept is None and path.exists():
            set_aside(path, "it cannot be read")
        if kept is None or kept.step > step:
            self.score = -math.inf


def _read(path: Path) -> checkpoint.Checkpoint | None:
    """Read a checkpoint; None where there is none or it is damaged."""
    try:
        return checkpoint.read(path)
    except ValueError:
        return None


def _score(saved: checkpoint.Checkpoint) -> Any:
    evaluation = saved.note.get("evaluation")
    return evaluation.get("mean_return") if isinstance(evaluation, dict) else None
