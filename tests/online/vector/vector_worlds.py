"""Vector environments and the episodes they play, for the tests of `minrl.online.vector`.

Shapes: N environments, T steps, O observation width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from minrl.online.vector import VectorEnvironment

N, T = 3, 120
LIMIT = 12  # steps: some of CartPole's episodes fall, others run out of time


def cartpole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)


def sync(mode: AutoresetMode, make: Callable[[], Any] = cartpole, count: int = N, **options: Any) -> VectorEnvironment:
    return VectorEnvironment(SyncVectorEnv([make] * count, autoreset_mode=mode, **options))


def native(count: int = N, **options: Any) -> Any:
    return gymnasium.make_vec("CartPole-v1", count, "vector_entry_point", max_episode_steps=LIMIT, **options)


def monitored(make: Callable[[], Any] = cartpole) -> VecEnv:
    return DummyVecEnv([lambda: Monitor(make())] * N)


def actions_of(space: gymnasium.Space[Any], steps: int = T) -> np.ndarray:
    """Draw actions (T, N, ...): CartPole's go mostly to one side in the last environment, so that its pole falls."""
    generator = np.random.default_rng(1)
    if isinstance(space, spaces.Discrete):
        return (generator.random((steps, N)) < np.linspace(0.5, 0.95, N)).astype(np.int64)
    return generator.uniform(-1.0, 1.0, (steps, N, *(space.shape or ()))).astype(np.float32)


@dataclass(frozen=True)
class Played:
    """Finished episode as a learner sees it."""

    environment: int
    observations: np.ndarray  # (T, O), flat
    rewards: list[float]
    final: np.ndarray  # (O,)
    time_limit: bool
    total: float  # the return that info["episode"] reports
    length: int


def episodes_of(environment: VecEnv, seed: int = 7, steps: int = T) -> list[Played]:
    """Return the episodes that T actions in each environment finish, without filler steps."""
    environment.seed(seed)
    actions = actions_of(environment.action_space, steps)
    observations: Any = environment.reset()
    step, ended = np.zeros(N, dtype=int), np.ones(N, dtype=bool)
    running: list[list[tuple[np.ndarray, float]]] = [[] for _ in range(N)]
    finished = []
    while (step < steps).any():
        new, rewards, dones, infos = environment.step(actions[np.minimum(step, steps - 1), np.arange(N)])
        before = flat(observations)  # read after the step, which must not overwrite it
        assert (rewards.dtype, dones.dtype, rewards.shape, dones.shape) == (np.float32, np.bool_, (N,), (N,))
        for i, info in enumerate(infos):
            if info.get("filler"):
                assert (bool(dones[i]), bool(ended[i]), float(rewards[i])) == (True, True, 0.0)
                assert info.keys() == {"filler", "TimeLimit.truncated", "terminal_observation"}
                assert info["TimeLimit.truncated"] is False
                continue
            step[i] += 1
            running[i].append((before[i], float(rewards[i])))
            assert ("episode" in info) == bool(dones[i])
            if dones[i]:
                seen, paid = zip(*running[i], strict=True)
                final, time_limit = flat(info["terminal_observation"], rows=1)[0], info["TimeLimit.truncated"]
                played = Played(i, np.stack(seen), list(paid), final, time_limit, **of_monitor(info["episode"]))
                finished += [played] if step[i] <= steps else []
                running[i] = []
        observations, ended = new, dones
    return sorted(finished, key=lambda episode: episode.environment)


def of_monitor(entry: dict[str, Any]) -> dict[str, Any]:
    return {"total": entry["r"], "length": entry["l"]}


def flat(observations: Any, rows: int = N) -> np.ndarray:
    """Flatten observations into a copy (N, O)."""
    parts = [observations[key] for key in sorted(observations)] if isinstance(observations, dict) else [observations]
    return np.concatenate([np.array(part).reshape(rows, -1) for part in parts], axis=1)


def assert_same(found: list[Played], expected: list[Played]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.environment, ours.length, ours.rewards) == (theirs.environment, theirs.length, theirs.rewards)
        assert ours.time_limit is theirs.time_limit
        assert abs(ours.total - theirs.total) < 1e-6, "Monitor rounds"
        np.testing.assert_array_equal(ours.final, theirs.final)
        np.testing.assert_array_equal(ours.observations, theirs.observations)


class Room(gymnasium.Env[Any, Any]):
    """Environment whose image and vector show the time; rewards of any sign, random ends."""

    observation_space = spaces.Dict(
        {"image": spaces.Box(0, 255, (36, 36, 1), np.uint8), "clock": spaces.Box(-np.inf, np.inf, (2,), np.float32)}
    )
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    gain = 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = (options or {}).get("time", 0)
        return self._observe(), {"born": float(self.np_random.random())}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        chance = self.np_random.random()
        info = {"time": self.time, "inner": {"twice": 2 * self.time}} if self.time % 2 else {}
        return self._observe(), self.gain * float(action.sum()), chance < 0.1, 0.05 < chance < 0.2, info

    def _observe(self) -> dict[str, Any]:
        noise = self.np_random.normal()
        return {"image": np.full((36, 36, 1), self.time % 256, np.uint8), "clock": np.array([self.time, noise], "f4")}

    def scale(self, gain: float) -> float:
        self.gain *= gain
        return self.gain


class Faulty(Room):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise RuntimeError("the motor burnt out")


class Lives(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that ends an episode every five steps, as Atari's do at a lost life, while the game continues."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.is_over, self.steps, self.last = True, 0, None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed, options=options) if self.is_over else (self.last, {})

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.last, reward, terminated, truncated, info = self.env.step(action)
        self.is_over = terminated or truncated
        self.steps += 1
        return self.last, reward, terminated or self.steps % 5 == 0, truncated, info


class Plain(VectorEnv[Any, Any, Any]):
    """Vector environment with one reused buffer, and without an autoreset mode unless `stated`."""

    def __init__(
        self, stated: Any = None, rows: int = N, space: gymnasium.Space[Any] | None = None, dtype: str = "f4"
    ) -> None:
        self.num_envs = N
        self.metadata = {} if stated is None else {"autoreset_mode": stated}
        self.single_observation_space = space or spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = self.action_space = spaces.Discrete(2)  # never used
        self.buffer = np.zeros((rows, 2), dtype)
        self.weight = 2.5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.buffer[:] = 0.0
        return self.buffer, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.buffer += 1.0
        rewards = np.full(len(self.buffer), np.nan)
        ended = np.full(len(self.buffer), self.buffer[0, 0] == 4)
        return self.buffer, rewards, ended, ended & False, {"row": np.arange(N), "all": "shared"}
