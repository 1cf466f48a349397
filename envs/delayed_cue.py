"""Delayed Cue: the first observation shows a cue, blanks follow, then the agent must name the cue.

The delayed match-to-sample task of psychology, without distractors. The first observation is one of `cues` cues;
`delay` blanks follow, or a number drawn from `delay` to `delay` + `jitter`; at the go signal the action that names the
cue earns 1 and any other 0, and the episode ends. Actions before the signal change nothing. Chance is 1 / `cues`.

Shapes: B environments.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from .single import SingleEnv
from .vector import Array, Dynamics, Flags, NumpyVectorEnv, Options, Rewards


class DelayedCue(Dynamics):
    """B rows of Delayed Cue."""

    def __init__(self, num_envs: int, delay: int, cues: int, jitter: int) -> None:
        """Check the arguments; raise ValueError for fewer than two cues or a negative delay."""
        if cues < 2:
            raise ValueError(f"cues must be at least 2, got {cues}")
        if delay < 0 or jitter < 0:
            raise ValueError(f"delay and jitter must not be negative, got {delay} and {jitter}")
        self.observation_space = spaces.Discrete(cues + 2)  # the cues, a blank, the go signal
        self.action_space = spaces.Discrete(cues)
        self._blank, self._go = cues, cues + 1
        self._delay, self._jitter = delay, jitter
        self._cue = np.zeros(num_envs, dtype=np.int64)
        self._wait = np.zeros(num_envs, dtype=np.int64)  # steps of this episode before the go signal
        self._time = np.zeros(num_envs, dtype=np.int64)

    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Draw the cue and the delay; there are no options."""
        self._cue[row] = generator.integers(self._blank)
        self._wait[row] = 1 + self._delay + (generator.integers(self._jitter + 1) if self._jitter else 0)
        self._time[row] = 0

    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Step; at the go signal compare the action with the cue."""
        ends = self._time >= self._wait
        self._time = self._time + 1
        return np.where(ends & (actions == self._cue), 1.0, 0.0), ends

    def observe(self) -> Array:
        """Return the cue, a blank or the go signal, (B,)."""
        later = np.where(self._time >= self._wait, self._go, self._blank)
        return np.where(self._time == 0, self._cue, later)


def delayed_cue(delay: int = 20, cues: int = 4, jitter: int = 0) -> SingleEnv:
    """Make `minrl/DelayedCue-v0`."""
    return SingleEnv(DelayedCue(1, delay, cues, jitter))


def delayed_cue_vector(
    num_envs: int = 1, delay: int = 20, cues: int = 4, jitter: int = 0, **options: Any
) -> NumpyVectorEnv:
    """Make a vectorised `minrl/DelayedCue-v0`; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(DelayedCue(num_envs, delay, cues, jitter), num_envs, **options)
