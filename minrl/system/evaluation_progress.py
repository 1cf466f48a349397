"""Progress of an evaluation: a bar on a terminal, elsewhere a line every 30 s on standard error."""

import sys
import time

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

PERIOD = 30.0  # seconds between two lines; shorter evaluations print none


class EvaluationProgress:
    """Context manager that shows how many episodes are done and how long the running ones are.

    Args:
        episodes: number of episodes in all.
        shown: False shows nothing.
        period: seconds between two lines where standard error is not a terminal.
    """

    def __init__(self, episodes: int, *, shown: bool, period: float = PERIOD) -> None:
        self.episodes, self.done = episodes, 0
        self.bar = tqdm(total=episodes, desc="evaluate", unit="episode", disable=None if shown else True, leave=False)
        self._period = 0.5 if not self.bar.disable else period if shown else np.inf
        self._begin = self._last = time.monotonic()

    def __enter__(self) -> "EvaluationProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def end_episode(self) -> None:
        """Count a finished episode."""
        self.done += 1
        self.bar.update()

    def step(self, lengths: npt.NDArray[np.int64]) -> None:
        """Show the longest of the running episodes, `lengths` (B,), at most once per period."""
        now = time.monotonic()
        if now - self._last < self._period:
            return
        self._last = now
        if not self.bar.disable:
            self.bar.set_postfix_str(f"step {lengths.max()}")
            return
        print(
            f"evaluating for {now - self._begin:.0f} s: {self.done} of {self.episodes} episodes done, "
            f"the longest running one is at step {lengths.max()}",
            file=sys.stderr,
            flush=True,
        )
