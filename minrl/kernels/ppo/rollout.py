"""A rollout of compiled environments with a compiled policy as one call.

Environments are three functions of one row (`minrl.envs.compiled` says which), reached by their addresses.

Shapes: T steps, B environments, O and A flat widths of an observation and an action, F features, S state size of the
policy, W state size of an environment, N random numbers of a step.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from minrl.kernels.jit.calls import caller_of_three
from minrl.kernels.jit.compile import called, compiled, inlined
from minrl.kernels.jit.rows import copy_row
from minrl.kernels.ppo.act import ACT, call

# Addresses and sizes of a rollout, and the columns of its ended episodes.
RESET, STEP, OBSERVE, LIMIT, FUNCTIONS = range(5)
AT, ROW, RETURN, LENGTH, TRUNCATED, EPISODE = range(6)
_tuple: Any = numba.types.Tuple
_step = caller_of_three(_tuple((numba.float64, numba.boolean, numba.boolean)))
_call = caller_of_three(numba.void)


@called
def encode(observation: Any, choices: Any, features: Any) -> None:
    """Write an observation (O,) as features (F,): numbers as they are, choices one-hot."""
    if choices.size == 0:
        for d in range(len(observation)):
            features[d] = observation[d]
        return
    first = 0
    features[:] = 0
    for d in range(len(observation)):
        features[first + int(observation[d])] = 1
        first += choices[d]


@inlined
def to_world(action: Any, low: Any, high: Any, taken: Any) -> None:
    """Write an action (A,) of the policy as the environment takes it: within the bounds of a Box."""
    for d in range(len(taken)):
        value = action[d]
        if low.size:
            value = min(max(value, low[d]), high[d])
        taken[d] = value


@cache
def rollout() -> Callable[..., None]:
    """Build the kernel of a rollout."""

    def kernel(
        functions: Any, plan: Any, reals: Any, world: Any, streams: Any, settings: Any, elapsed: Any, gamma: Any,
        observations: Any, choices: Any, features: Any, noise: Any, actions: Any, low: Any, high: Any, taken: Any,
        rewards: Any, starts: Any, values: Any, log_probs: Any, states: Any, cuts: Any, at_cuts: Any, returns: Any,
        lengths: Any, episodes: Any, last_seen: Any, counts: Any,
    ) -> None:  # fmt: skip
        """Act T steps; the first rows of `observations` (T + 1, B, O) and `starts` (T + 1, B) are given.

        Args:
            functions: addresses of the environment's functions, and the time limit.
            plan, reals: of the policy, see `minrl.kernels.ppo.act`.
            world, streams, settings, elapsed: of the environments, (B, W), (B, ·), (·,), (B,); moved on.
            gamma: discount factor.
            choices: of each part of an observation that is one-hot; none for numbers.
            features: (B, F) to work with.
            noise: (T, B * N) for the samples.
            actions, rewards, values, log_probs: (T, B, A), (T, B) to write to.
            low, high: bounds (A,) of a Box; none for choices.
            taken: (A,) to work with, in the type of the environment's actions.
            states: (2, B, S), of which the first enters; `counts[1]` says which is last.
            cuts: steps whose entering states are written to `at_cuts` (C, B, S).
            returns, lengths: of the running episodes, (B,).
            episodes: (T * B, EPISODE) to write to, ended ones in order; `counts[0]` says how many.
            last_seen: (T * B, O) to write their last observations to.
        """
        steps, batch, width = rewards.shape[0], rewards.shape[1], states.shape[2]
        now, cut, ended = 0, 0, 0
        never, chosen = np.zeros(1, np.uint8), np.empty(actions.shape[2], np.float32)
        value, ignored, after = np.empty(1, np.float32), np.empty(1, np.float32), np.empty(width, np.float32)
        for t in range(steps):
            if cut < len(cuts) and cuts[cut] == t:
                for b in range(batch):
                    copy_row(states[now, b], at_cuts[cut, b], width)
                cut += 1
            for b in range(batch):
                encode(observations[t, b], choices, features[b])
            call(
                plan[ACT], plan, reals, features.ctypes.data, starts[t].ctypes.data, 0, states[now].ctypes.data,
                noise[t].ctypes.data, 0, actions[t].ctypes.data, values[t].ctypes.data, log_probs[t].ctypes.data,
                states[1 - now].ctypes.data, batch,
            )  # fmt: skip
            now = 1 - now
            for b in range(batch):
                to_world(actions[t, b], low, high, taken)
                reward, terminated, truncated = _step(functions[STEP], world[b], taken, settings)
                _call(functions[OBSERVE], world[b], observations[t + 1, b], settings)
                elapsed[b] += 1
                lengths[b] += 1
                returns[b] += reward
                truncated = (truncated or elapsed[b] >= functions[LIMIT]) and not terminated
                rewards[t, b], starts[t + 1, b] = reward, terminated or truncated
                if not (terminated or truncated):
                    continue
                if truncated:  # the value of what comes after a time limit
                    encode(observations[t + 1, b], choices, features[b])
                    call(
                        plan[ACT], plan, reals, features[b].ctypes.data, never.ctypes.data, 0,
                        states[now, b].ctypes.data, 0, 0, chosen.ctypes.data, value.ctypes.data, ignored.ctypes.data,
                        after.ctypes.data, 1,
                    )  # fmt: skip
                    rewards[t, b] += gamma * value[0]
                record = episodes[ended]
                record[AT], record[ROW], record[RETURN], record[LENGTH] = t, b, returns[b], lengths[b]
                record[TRUNCATED] = truncated
                copy_row(observations[t + 1, b], last_seen[ended], observations.shape[2])
                ended += 1
                elapsed[b], lengths[b], returns[b] = 0, 0, 0.0
                _call(functions[RESET], world[b], streams[b], settings)
                _call(functions[OBSERVE], world[b], observations[t + 1, b], settings)
        counts[0], counts[1] = ended, now

    return compiled(kernel)
