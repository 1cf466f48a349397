"""Perfect policies of the memory tasks, `--policy guide`: they remember what their task asks for.

A guide reads observations alone, as an agent does. Where actions change nothing it always takes the same one, so that
no agent can read the cue from its own earlier actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym

# As in the environments: T-Maze's observations and actions.
_JUNCTION, _CUE_UP, _CUE_DOWN = 1, 2, 3
_RIGHT, _UP, _LEFT, _DOWN = range(4)


class Guide:
    """Perfect policy of a memory task.

    Args:
        environment: one of `GUIDED`.

    Raises:
        ValueError: for any other.
    """

    name = "guide"

    def __init__(self, environment: gym.Env[Any, Any]) -> None:
        spec = environment.spec
        task = "" if spec is None else spec.id.rpartition("/")[2].rpartition("-")[0]
        # RepeatPrevious32 differs from RepeatPrevious in its keywords alone.
        if (known := task.rstrip("0123456789")) not in GUIDED or spec is None:
            raise ValueError(f"there is no guide for {'this environment' if spec is None else spec.id}: {_tasks()}")
        self._seen: deque[int] = deque(maxlen=spec.kwargs.get("k", 4) if known == "RepeatPrevious" else None)
        self._cues = int(getattr(environment.action_space, "n", 0))
        self._choose = GUIDED[known]

    def start(self, seed: int) -> None:
        """Forget the last episode."""
        self._seen.clear()

    def act(self, observation: Any) -> int:
        """Return the action for one observation."""
        self._seen.append(int(observation))
        return self._choose(self._seen, self._cues)


def _t_maze(seen: deque[int], cues: int) -> int:
    """Walk to the cue if it is not seen at once, then to the junction, and turn to the cue's side."""
    cue = next((shown for shown in seen if shown in (_CUE_UP, _CUE_DOWN)), None)
    if cue is None:
        return _LEFT
    if seen[-1] != _JUNCTION:
        return _RIGHT
    return _UP if cue == _CUE_UP else _DOWN


def _delayed_cue(seen: deque[int], cues: int) -> int:
    """Name the cue at the go signal, the last of the observations."""
    return seen[0] if seen[-1] == cues + 1 else 0


GUIDED: dict[str, Callable[[deque[int], int], int]] = {
    "TMaze": _t_maze,
    "DelayedCue": _delayed_cue,
    "RepeatFirst": lambda seen, cues: seen[0],
    "RepeatPrevious": lambda seen, cues: seen[0],  # of the last k
}


def _tasks() -> str:
    return f"there is one for {', '.join(f'minrl/{name}' for name in GUIDED)}"
