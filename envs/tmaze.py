"""T-Maze: a cue at the start of a corridor says which way to turn at its end (Bakker 2001).

As in Ni, Ma, Eysenbach and Bacon 2023 ("When Do Transformers Shine in RL?", arXiv 2307.03864, section 5.1): the
corridor has `length` steps; in the passive task the agent starts at the cue, in the active one `detour` steps to the
right of it, and must go back to see it. Observations are the cue, the corridor and the junction. In the passive task
every step that does not advance costs 1 / length, and an episode has `length` + 1 steps; in the active one steps are
free, and there are 2 · `detour` more. At the junction, up and down end the episode, with a reward of 1 for the side
that the cue names. An agent without memory is right half of the time.
"""

from typing import Any

from gymnasium import spaces

from .compiled import Task
from .random_streams import integers
from .single import SingleEnv
from .vector import CompiledVectorEnv

# Observations and actions.
CORRIDOR, JUNCTION, CUE_UP, CUE_DOWN = range(4)
RIGHT, UP, LEFT, DOWN = range(4)


def _reset(state: Any, stream: Any, settings: Any) -> None:
    """Draw the side of the goal; the state holds place, time and goal."""
    state[0], state[1] = settings[0], 0
    state[2] = CUE_UP + integers(stream, 2)


def _step(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Move, or choose a side at the junction."""
    junction, horizon, cost = settings[1], settings[2], settings[3]
    place, taken, goal = state[0], action[0], state[2]
    chooses = place == junction and taken in (UP, DOWN)
    if taken == RIGHT:
        state[0] = min(place + 1, junction)
    elif taken == LEFT:
        state[0] = max(place - 1, 0)
    state[1] += 1
    reward = 1.0 if chooses and (goal == CUE_UP) == (taken == UP) else 0.0
    if not chooses and state[0] <= place:
        reward -= cost
    return reward, chooses or state[1] >= horizon, False


def _observe(state: Any, observation: Any, settings: Any) -> None:
    """Show the observation of the agent's place."""
    if state[0] == 0:
        observation[0] = state[2]
    else:
        observation[0] = JUNCTION if state[0] == settings[1] else CORRIDOR


def _task(length: int, active: bool, detour: int) -> Task:
    """Check the arguments; raise ValueError for a length or a detour below 1."""
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if active and detour < 1:
        raise ValueError(f"detour must be at least 1, got {detour}")
    start = detour if active else 0
    settings = (start, start + length, length + 1 + 2 * start, 0.0 if active else 1.0 / length)
    return Task(spaces.Discrete(4), spaces.Discrete(4), 3, _reset, _step, _observe, settings)


def tmaze(length: int = 10, active: bool = False, detour: int = 1) -> SingleEnv:
    """Make `minrl/TMaze-v0`."""
    return SingleEnv(_task(length, active, detour))


def tmaze_vector(
    num_envs: int = 1, length: int = 10, active: bool = False, detour: int = 1, **options: Any
) -> CompiledVectorEnv:
    """Make a vectorised `minrl/TMaze-v0`; `options` are those of CompiledVectorEnv."""
    return CompiledVectorEnv(_task(length, active, detour), num_envs, **options)
