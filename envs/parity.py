"""Parity: one bit per step; the action names the parity of all bits seen so far.

A regular language that a recurrence with positive decay cannot track (Sarrof, Veitsman and Hahn 2024, "The Expressive
Capacity of State Space Models", arXiv 2405.17394; Grazzi et al. 2024, arXiv 2411.12537). An episode has `length` bits;
each right answer earns 1 / `length`, each wrong one costs as much: the best return is 1, chance 0.
"""

from typing import Any

from gymnasium import spaces

from .compiled import Task
from .random_streams import integers
from .single import SingleEnv
from .vector import CompiledVectorEnv


def _reset(state: Any, stream: Any, settings: Any) -> None:
    """Draw the bits; the state holds the time, the parity so far and the bits."""
    for i in range(2, len(state)):
        state[i] = integers(stream, 2)
    state[0], state[1] = 0, state[2]


def _step(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Compare the action with the parity and show the next bit; after the end the last one stays."""
    length = len(state) - 2
    reward = (1.0 if action[0] == state[1] else -1.0) / length
    state[0] += 1
    if state[0] >= length:
        return reward, True, False
    if state[2 + int(state[0])] == 1:
        state[1] = 1 - state[1]
    return reward, False, False


def _observe(state: Any, observation: Any, settings: Any) -> None:
    """Show the current bit."""
    observation[0] = state[2 + min(int(state[0]), len(state) - 3)]


def _task(length: int) -> Task:
    """Check the argument; raise ValueError for a length below 1."""
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    return Task(spaces.Discrete(2), spaces.Discrete(2), 2 + length, _reset, _step, _observe)


def parity(length: int = 40) -> SingleEnv:
    """Make `minrl/Parity-v0`."""
    return SingleEnv(_task(length))


def parity_vector(num_envs: int = 1, length: int = 40, **options: Any) -> CompiledVectorEnv:
    """Make a vectorised `minrl/Parity-v0`; `options` are those of CompiledVectorEnv."""
    return CompiledVectorEnv(_task(length), num_envs, **options)
