"""Rollouts and updates that a signal breaks off: the run ends in the state before them.

An environment is never broken off in a step: its worker processes could not be told to end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minrl.system.signals import Stopped, StopRequest

LONG = 0.25  # seconds of a rollout and its update after which the next ones may be broken off


@dataclass(frozen=True)
class KeptState:
    """Weights and training state of a run between two rollouts, as a checkpoint holds them."""

    step: int
    weights: dict[str, Any]
    training: dict[str, Any]


class LongRollouts:
    """Rollouts of a process, of which those that may be long can be broken off.

    The first may be long, as it compiles, and so may each after one that was. Only then a copy of the state before it
    is kept, which takes longer than a short rollout of a small policy.

    Args:
        allowed: False if no rollout may be broken off, as those of off-policy algorithms, which are short.
        exact: True if a run goes on from checkpoints alone, after which its environments are reset.
    """

    def __init__(self, allowed: bool, exact: bool) -> None:
        self.allowed, self.exact = allowed, exact
        self.breakable = False
        self.kept: KeptState | None = None  # None if the last checkpoint holds the state to go on from
        self._begun = -math.inf  # seconds of the run at the start of the last rollout

    def begin(self, seconds: float, state: Callable[[], KeptState] | None) -> None:
        """Begin a rollout after `seconds` of the run; `state` copies its state, None if the last checkpoint has it."""
        self.breakable, self._begun = self.allowed and seconds - self._begun >= LONG, seconds
        self.kept = state() if self.breakable and not self.exact and state is not None else None

    def check(self, request: StopRequest) -> None:
        """Raise `Stopped` after a signal if the rollout may be broken off."""
        if self.breakable and request.signal is not None:
            raise Stopped
