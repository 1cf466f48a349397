"""Rollouts of compiled environments with a compiled policy: all steps in one call.

Shapes: T steps, B environments, O and A flat widths of an observation and an action, N random numbers of a step.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.torch_layers import FlattenExtractor

from minrl.backbone.compiled_step import takes
from minrl.online.checks import check_observations, check_rewards
from minrl.online.compiled.act import CompiledAct, compiled_act
from minrl.online.rollout import SegmentBuffer
from minrl.online.vector.adapter import VectorEnvironment

_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


@dataclass(frozen=True)
class NativeRollout:
    """An algorithm and its environments, for rollouts in one call."""

    algorithm: Any
    act: CompiledAct
    env: VectorEnvironment
    rows: Any  # `minrl.envs.compiled.Rows`

    def collect(self, buffer: SegmentBuffer) -> None:
        """Fill the buffer, as `RecurrentPPO.collect_rollouts` does step by step with the same random numbers.

        Raises:
            ValueError: for a reward or an observation that is not finite.
        """
        from minrl.kernels.ppo import rollout  # it imports numba

        algorithm, rows, layout = self.algorithm, self.rows, self.act.layout
        steps, batch = buffer.buffer_size, buffer.n_envs
        space, box = self.env.observation_space, self.env.action_space
        seen = np.empty((steps + 1, batch, int(np.prod(space.shape or ()))), space.dtype)
        seen[0] = np.reshape(algorithm._last_obs, seen.shape[1:])
        starts = np.empty((steps + 1, batch), np.uint8)
        starts[0] = algorithm._last_episode_starts
        choices = _choices(space)
        features = np.empty((batch, int(choices.sum()) or seen.shape[2]), np.float32)
        is_box = isinstance(box, spaces.Box)
        low, high = (box.low.ravel(), box.high.ravel()) if is_box else (np.empty(0),) * 2  # type: ignore[attr-defined]
        actions = np.empty((steps, batch, layout.actions), np.float32)
        noise = torch.stack([self.act.noise(batch).view(-1) for _ in range(steps)])
        states = np.empty((2, batch, layout.state_size), np.float32)
        states[0] = algorithm._last_state.numpy()
        cuts = np.array(buffer.cuts[:-1])
        at_cuts = np.empty((len(cuts), *states.shape[1:]), np.float32)
        rewards, values, log_probs = (np.empty((steps, batch), np.float32) for _ in range(3))
        episodes, counts = np.empty((steps * batch, rollout.EPISODE)), np.zeros(2, np.int64)
        last_seen = np.empty((steps * batch, seen.shape[2]), seen.dtype)
        statistics = self.env.episodes
        rollout.rollout()(
            np.array([rows.reset, rows.step, rows.observe, rows.limit]), self.act.plan, self.act.reals,
            rows.state, rows.streams, rows.settings, rows.elapsed, np.float32(algorithm.gamma), seen, choices, features,
            noise.numpy(), actions, low.astype(np.float32), high.astype(np.float32),
            np.empty(layout.actions, np.float64 if is_box else np.int64), rewards, starts, values, log_probs, states,
            cuts, at_cuts, statistics.returns, statistics.lengths, episodes, last_seen, counts,
        )  # fmt: skip
        self._check(seen, rewards)
        buffer.observations[:] = seen[:-1].reshape(buffer.observations.shape)
        buffer.actions[:] = actions
        buffer.rewards[:], buffer.values[:], buffer.log_probs[:] = rewards, values, log_probs
        buffer.episode_starts[:] = starts[:-1]
        buffer.states = list(torch.from_numpy(at_cuts))
        buffer.pos, buffer.full = steps, True
        for episode in episodes[: counts[0]]:
            found = statistics.finished(float(episode[rollout.RETURN]), int(episode[rollout.LENGTH]))
            algorithm.ep_info_buffer.append(found)
        algorithm._last_obs = seen[-1].reshape((batch, *(space.shape or ())))
        algorithm._last_episode_starts = starts[-1].astype(np.bool_)
        algorithm._last_state = torch.from_numpy(states[counts[1]].copy())

    def _check(self, seen: Any, rewards: Any) -> None:
        batch, begun = rewards.shape[1], self.algorithm.num_timesteps
        if not np.isfinite(rewards).all() or (seen.dtype.kind == "f" and not np.isfinite(seen).all()):
            for t, row in enumerate(rewards):
                check_observations(seen[t], begun + t * batch)
                check_rewards(row, begun + (t + 1) * batch)
            check_observations(seen[-1], begun + len(rewards) * batch)


def collect_at_once(algorithm: Any, env: Any, callback: BaseCallback, buffer: SegmentBuffer) -> bool:
    """Fill the buffer in one call; return False, with nothing done, where steps are to be taken one by one."""
    native = native_rollout(algorithm, env, callback)
    if native is not None:
        native.collect(buffer)
        _advance(callback, algorithm, buffer.buffer_size)
    return native is not None


def native_rollout(algorithm: Any, env: Any, callback: BaseCallback) -> NativeRollout | None:
    """Return what collects rollouts of `env` in one call; None where steps are to be taken one by one."""
    policy = algorithm.policy
    if type(env) is not VectorEnvironment or env.autoreset is not AutoresetMode.SAME_STEP or not _is_passive(callback):
        return None
    rows = getattr(env.environment, "rows", None)
    if rows is None or policy.previous_size or not takes(env.num_envs) or not _fits(env, policy):
        return None
    act = compiled_act(policy)
    return None if act is None else NativeRollout(algorithm, act, env, rows)


def _fits(env: VectorEnvironment, policy: Any) -> bool:
    """Return True if observations are features as they are or one-hot, and actions need at most clipping."""
    seen, taken = env.observation_space, env.action_space
    return (
        type(policy.features_extractor) is FlattenExtractor
        and isinstance(seen, _SPACES)
        and isinstance(taken, _SPACES)
        and seen.dtype != np.uint8
        and not policy.squash_output
        and (not isinstance(taken, spaces.Box) or taken.dtype == np.float32)
    )


def _choices(space: Any) -> Any:
    """Return how many choices each part of an observation has that is one-hot, none for numbers."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.n], np.int64)
    return space.nvec.ravel().astype(np.int64) if isinstance(space, spaces.MultiDiscrete) else np.empty(0, np.int64)


def _is_passive(callback: BaseCallback) -> bool:
    """Return True if a callback's `on_step` may be called after the rollout, as it reads nothing of single steps."""
    if isinstance(callback, CallbackList):
        return all(map(_is_passive, callback.callbacks))
    if type(callback) is ConvertCallback:
        return callback.callback is None
    return type(callback) is ProgressBarCallback or getattr(callback, "ignores_steps", False)


def _advance(callback: BaseCallback, algorithm: Any, steps: int) -> None:
    """Count `steps` steps of all environments, and call passive callbacks for each."""
    if type(callback) is ConvertCallback or (isinstance(callback, CallbackList) and not callback.callbacks):
        algorithm.num_timesteps += steps * algorithm.n_envs
        callback.n_calls += steps
        callback.num_timesteps = algorithm.num_timesteps
        return
    for _ in range(steps):
        algorithm.num_timesteps += algorithm.n_envs
        callback.on_step()
