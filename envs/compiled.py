"""Tasks as functions of one row of arrays, compiled by numba, and loops over rows.

A task is three functions, in Python that numba understands:

    reset(state, stream, settings)            start an episode, drawing from `minrl.envs.random_streams`
    step(state, action, settings)             advance the state; return reward, terminated, truncated
    observe(state, observation, settings)     write the observation of this state

`state` (S,) float64 is the state of one row, `settings` (P,) float64 are shared by all rows. `action` (A,)
is float64 for a Box and int64 for choices, `observation` (O,) has the dtype of its space; both are flat. Compiled
functions do not raise: a step that finds an error ends the episode.

Code compiled elsewhere calls them by their addresses, with `Rows` as its only argument.

Shapes: B rows, S state size, P settings, A and O flat widths of an action and an observation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import gymnasium
import numba
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from llvmlite import ir
from numba.extending import intrinsic

from .jit import jitted, row_function
from .random_streams import Stream

Array = npt.NDArray[Any]
Options = dict[str, Any] | None


@dataclass(frozen=True)
class Task:
    """A task in functions of one row.

    Args:
        observation_space, action_space: of one row: Box, Discrete, MultiDiscrete or MultiBinary, counting from 0.
        state_size: S, elements of a row's state.
        reset, step, observe: see the module.
        settings: P values that the functions read.
        with_options: returns the settings for a reset with Gymnasium's `options`; None for a task without any.
    """

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    state_size: int
    reset: Callable[[Array, Stream, Array], None]
    step: Callable[[Array, Array, Array], tuple[float, bool, bool]]
    observe: Callable[[Array, Array, Array], None]
    settings: Sequence[float] = ()
    with_options: Callable[[dict[str, Any]], Sequence[float]] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a space that is not one array, or counts from another number than 0."""
        kinds = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
        for space in (self.observation_space, self.action_space):
            if not isinstance(space, kinds) or np.any(getattr(space, "start", 0)):
                raise ValueError(f"a compiled task needs a Box, or Discrete … counting from 0, got {space}")

    def settings_of(self, options: Options) -> Array:
        """Return the settings (P,) for a reset with `options`."""
        chosen = self.settings if not options or self.with_options is None else self.with_options(options)
        return np.array(chosen, dtype=np.float64)


class Rows(NamedTuple):
    """B rows of a task for compiled code: addresses of its functions, and arrays that they change."""

    reset: int
    step: int
    observe: int
    state: npt.NDArray[np.float64]  # (B, S)
    streams: npt.NDArray[np.uint64]  # (B, STREAM_SIZE)
    settings: npt.NDArray[np.float64]  # (P,)
    elapsed: npt.NDArray[np.int64]  # (B,) steps of the running episodes
    limit: int  # steps after which an episode is truncated


def addresses(task: Task) -> tuple[int, int, int]:
    """Compile the functions of a task, once, and return the addresses of `reset`, `step` and `observe`."""
    numbers = numba.float64[::1]
    compiled = (
        _compiled(task.reset, numba.void(numbers, numba.uint64[::1], numbers)),
        _compiled(task.step, _OUTCOME(numbers, _row_of(action_type(task.action_space)), numbers)),
        _compiled(task.observe, numba.void(numbers, _row_of(task.observation_space.dtype), numbers)),
    )
    return compiled[0].address, compiled[1].address, compiled[2].address


_tuple: Any = numba.types.Tuple
_OUTCOME = _tuple((numba.float64, numba.boolean, numba.boolean))
# Kept alive: numba frees the machine code of a function without references.
_compiled = cache(row_function)


def _row_of(dtype: Any) -> Any:
    return numba.from_dtype(np.dtype(dtype))[::1]


def action_type(space: gymnasium.Space[Any]) -> type[np.generic]:
    """Return the dtype of `step`'s action: wide, so that Python and machine code round alike."""
    return np.float64 if isinstance(space, spaces.Box) else np.int64


def _caller(result: Any) -> Any:
    """Build a compiled function (address, a, b, c) that calls the function at the address."""

    def call(context: Any, address: Any, a: Any, b: Any, c: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            parts = [context.get_value_type(part) for part in signature.args[1:]]
            kind = ir.FunctionType(context.get_value_type(result), parts)
            return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

        return result(numba.int64, a, b, c), generate

    return intrinsic(call)


call_step, call_other = _caller(_OUTCOME), _caller(numba.void)


@jitted
def step_rows(
    step: int, observe: int, state: Any, actions: Any, settings: Any, observations: Any, rewards: Any, ends: Any
) -> None:
    """Step every row: write observations (B, O), rewards (B,), and terminated and truncated (2, B)."""
    for row in range(len(state)):
        rewards[row], ends[0, row], ends[1, row] = call_step(step, state[row], actions[row], settings)
        call_other(observe, state[row], observations[row], settings)


@jitted
def observe_rows(observe: int, state: Any, settings: Any, observations: Any) -> None:
    """Write the observation of every row."""
    for row in range(len(state)):
        call_other(observe, state[row], observations[row], settings)


@jitted
def reset_rows(reset: int, observe: int, rows: Any, state: Any, streams: Any, settings: Any, observations: Any) -> None:
    """Start episodes in `rows`, and write their observations."""
    for row in rows:
        call_other(reset, state[row], streams[row], settings)
        call_other(observe, state[row], observations[row], settings)
