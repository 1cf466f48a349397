"""Delayed Cue: the first observation shows a cue, blanks follow, then the agent must name the cue.

The delayed match-to-sample task of psychology, without distractors. The first observation is one of `cues` cues;
`delay` blanks follow, or a number drawn from `delay` to `delay` + `jitter`; at the go signal the action that names the
cue earns 1 and any other 0, and the episode ends. Actions before the signal change nothing. Chance is 1 / `cues`.
"""

from typing import Any

from gymnasium import spaces

from .compiled import Task
from .random_streams import integers
from .single import SingleEnv
from .vector import CompiledVectorEnv


def _reset(state: Any, stream: Any, settings: Any) -> None:
    """Draw the cue and the delay; the state holds the cue, the steps before the go signal and the time."""
    state[0] = integers(stream, int(settings[0]))
    state[1] = 1 + settings[1] + integers(stream, int(settings[2]) + 1)
    state[2] = 0


def _step(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Advance the time; at the go signal compare the action with the cue."""
    ends = state[2] >= state[1]
    state[2] += 1
    return 1.0 if ends and action[0] == state[0] else 0.0, ends, False


def _observe(state: Any, observation: Any, settings: Any) -> None:
    """Show the cue, a blank or the go signal."""
    blank = settings[0]
    if state[2] == 0:
        observation[0] = state[0]
    else:
        observation[0] = blank + 1 if state[2] >= state[1] else blank


def _task(delay: int, cues: int, jitter: int) -> Task:
    """Check the arguments; raise ValueError for fewer than two cues or a negative delay."""
    if cues < 2:
        raise ValueError(f"cues must be at least 2, got {cues}")
    if delay < 0 or jitter < 0:
        raise ValueError(f"delay and jitter must not be negative, got {delay} and {jitter}")
    # Observations are the cues, a blank and the go signal.
    return Task(spaces.Discrete(cues + 2), spaces.Discrete(cues), 3, _reset, _step, _observe, (cues, delay, jitter))


def delayed_cue(delay: int = 20, cues: int = 4, jitter: int = 0) -> SingleEnv:
    """Make `minrl/DelayedCue-v0`."""
    return SingleEnv(_task(delay, cues, jitter))


def delayed_cue_vector(
    num_envs: int = 1, delay: int = 20, cues: int = 4, jitter: int = 0, **options: Any
) -> CompiledVectorEnv:
    """Make a vectorised `minrl/DelayedCue-v0`; `options` are those of CompiledVectorEnv."""
    return CompiledVectorEnv(_task(delay, cues, jitter), num_envs, **options)
