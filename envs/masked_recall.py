"""Masked recall: name the symbol seen `delay` steps ago, of which `allowed` choices are allowed at each step.

The allowed choices, the right one among them, are drawn anew at each step and no part of the observation; they are what
`action_masks()` says, as sb3-contrib's MaskablePPO reads it. Forbidden choices earn nothing. A policy without memory is
right once in `allowed` times, one without masks has to find out `symbols` choices.
"""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

STEPS = 32  # of an episode


class MaskedRecall(gymnasium.Env[Any, Any]):
    """Environment `minrl/MaskedRecall-v0`.

    Args:
        symbols: number of symbols and of choices.
        allowed: choices that are allowed at each step.
        delay: steps between a symbol and its naming.

    Raises:
        ValueError: unless 1 <= allowed <= symbols and delay >= 0.
    """

    def __init__(self, symbols: int = 20, allowed: int = 4, delay: int = 2) -> None:
        if not 1 <= allowed <= symbols:
            raise ValueError(f"allowed must lie from 1 to the {symbols} symbols, got {allowed}")
        if not 0 <= delay < STEPS:
            raise ValueError(f"delay must lie from 0 to {STEPS - 1} steps, got {delay}")
        self.symbols, self.allowed, self.delay = symbols, allowed, delay
        self.observation_space, self.action_space = spaces.Discrete(symbols), spaces.Discrete(symbols)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw the symbols of an episode."""
        super().reset(seed=seed)
        self._seen = self.np_random.integers(self.symbols, size=STEPS + 1)
        self._step = 0
        return self._begin_step(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return a reward of 1 for the right symbol."""
        right = self._step >= self.delay and int(action) == self._seen[self._step - self.delay]
        self._step += 1
        return self._begin_step(), float(right), self._step == STEPS, False, {}

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return the flags (symbols,) of the allowed choices."""
        return self._mask

    def _begin_step(self) -> np.int64:
        """Draw the mask of a step and return its symbol."""
        right = self._seen[max(0, self._step - self.delay)]
        others = self.np_random.permutation(self.symbols - 1)[: self.allowed - 1]
        self._mask = np.zeros(self.symbols, dtype=np.bool_)
        self._mask[np.append(others + (others >= right), right)] = True
        return np.int64(self._seen[self._step])
