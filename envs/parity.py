"""Parity: one bit per step; the action names the parity of all bits seen so far.

A regular language that a recurrence with positive decay cannot track (Sarrof, Veitsman and Hahn 2024, "The Expressive
Capacity of State Space Models", arXiv 2405.17394; Grazzi et al. 2024, arXiv 2411.12537). An episode has `length` bits;
each right answer earns 1 / `length`, each wrong one costs as much: the best return is 1, chance 0.

Shapes: B environments, N bits of an episode.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from .single import SingleEnv
from .vector import Array, Dynamics, Flags, NumpyVectorEnv, Options, Rewards


class Parity(Dynamics):
    """B rows of Parity."""

    def __init__(self, num_envs: int, length: int) -> None:
        """Check the arguments; raise ValueError for a length below 1."""
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.observation_space = spaces.Discrete(2)
        self.action_space = spaces.Discrete(2)
        self._length = length
        self._bits = np.zeros((num_envs, length), dtype=np.int64)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._odd = np.zeros(num_envs, dtype=np.int64)
        self._rows = np.arange(num_envs)

    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Draw the bits; there are no options."""
        self._bits[row] = generator.integers(2, size=self._length)
        self._time[row], self._odd[row] = 0, self._bits[row, 0]

    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Compare the actions with the parity and show the next bit."""
        rewards = np.where(actions == self._odd, 1.0, -1.0) / self._length
        self._time = self._time + 1
        ends = self._time >= self._length
        self._odd = self._odd ^ np.where(ends, 0, self.observe())
        return rewards, ends

    def observe(self) -> Array:
        """Return the current bits, (B,); after the end the last one stays."""
        return self._bits[self._rows, np.minimum(self._time, self._length - 1)]


def parity(length: int = 40) -> SingleEnv:
    """Make `minrl/Parity-v0`."""
    return SingleEnv(Parity(1, length))


def parity_vector(num_envs: int = 1, length: int = 40, **options: Any) -> NumpyVectorEnv:
    """Make a vectorised `minrl/Parity-v0`; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(Parity(num_envs, length), num_envs, **options)
