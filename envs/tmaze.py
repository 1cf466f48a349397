"""T-Maze: a cue at the start of a corridor says which way to turn at its end (Bakker 2001).

As in Ni, Ma, Eysenbach and Bacon 2023 ("When Do Transformers Shine in RL?", arXiv 2307.03864, section 5.1): the
corridor has `length` steps; in the passive task the agent starts at the cue, in the active one `detour` steps to the
right of it, and must go back to see it. Observations are the cue, the corridor and the junction. In the passive task
every step that does not advance costs 1 / length, and an episode has `length` + 1 steps; in the active one steps are
free, and there are 2 · `detour` more. At the junction, up and down end the episode, with a reward of 1 for the side
that the cue names. An agent without memory is right half of the time.

Shapes: B environments.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from .single import SingleEnv
from .vector import Array, Dynamics, Flags, NumpyVectorEnv, Options, Rewards

# Observations and actions.
CORRIDOR, JUNCTION, CUE_UP, CUE_DOWN = range(4)
RIGHT, UP, LEFT, DOWN = range(4)


class TMaze(Dynamics):
    """B rows of the T-Maze."""

    def __init__(self, num_envs: int, length: int, active: bool, detour: int) -> None:
        """Check the arguments; raise ValueError for a length or a detour below 1."""
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if active and detour < 1:
            raise ValueError(f"detour must be at least 1, got {detour}")
        self.observation_space = spaces.Discrete(4)
        self.action_space = spaces.Discrete(4)
        self._start = detour if active else 0
        self._junction = self._start + length
        self._horizon = length + 1 + 2 * self._start
        self._cost = 0.0 if active else 1.0 / length
        self._place = np.zeros(num_envs, dtype=np.int64)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._goal = np.full(num_envs, CUE_UP, dtype=np.int64)

    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Draw the side of the goal; there are no options."""
        self._goal[row] = generator.integers(CUE_UP, CUE_DOWN + 1)
        self._place[row], self._time[row] = self._start, 0

    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Move, or choose a side at the junction."""
        at_junction = self._place == self._junction
        chooses = at_junction & ((actions == UP) | (actions == DOWN))
        right = np.where(actions == UP, CUE_UP, CUE_DOWN) == self._goal
        moves = (actions == RIGHT) * 1 - (actions == LEFT) * 1
        place = np.clip(self._place + moves, 0, self._junction)
        advances = chooses | (place > self._place)
        self._place, self._time = place, self._time + 1
        rewards = (chooses & right) - np.where(advances, 0.0, self._cost)
        return rewards, chooses | (self._time >= self._horizon)

    def observe(self) -> Array:
        """Return what lies at each row's place, (B,)."""
        seen = np.where(self._place == self._junction, JUNCTION, CORRIDOR)
        return np.where(self._place == 0, self._goal, seen)


def tmaze(length: int = 10, active: bool = False, detour: int = 1) -> SingleEnv:
    """Make `minrl/TMaze-v0`."""
    return SingleEnv(TMaze(1, length, active, detour))


def tmaze_vector(
    num_envs: int = 1, length: int = 10, active: bool = False, detour: int = 1, **options: Any
) -> NumpyVectorEnv:
    """Make a vectorised `minrl/TMaze-v0`; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(TMaze(num_envs, length, active, detour), num_envs, **options)
