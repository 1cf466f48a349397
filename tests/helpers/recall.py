"""A small memory task, and small recurrent PPO models on it."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from minrl.agents.ppo import RecurrentPPO
from minrl.online.rollout import SegmentBuffer


class Recall(gymnasium.Env[Any, Any]):
    """Observations are random; the reward is one where the action is right about the first of the episode.

    Episodes end after 3 to 9 steps, every second one by a time limit.
    """

    def __init__(self, space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = space or spaces.Discrete(2)
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.first = self._observation()
        self.left = int(self.np_random.integers(3, 10))
        self.count += 1
        return self.first, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        assert self.action_space.contains(action), f"{action} is outside {self.action_space}"
        right = float(np.asarray(action).reshape(-1)[0] == (self.first[0] > 0))
        over = self.left == 0
        return self._observation(), right, over and self.count % 2 == 0, over and self.count % 2 == 1, {}

    def _observation(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


def recall(n_envs: int = 3, **options: Any) -> Any:
    return make_vec_env(lambda: Recall(**options), n_envs, seed=0)


def small(env: Any = None, policy: str = "MlpPolicy", **options: Any) -> RecurrentPPO:
    settings: dict[str, Any] = {"n_steps": 24, "batch_size": 24, "n_epochs": 2, "seed": 0, "device": "cpu"}
    settings |= {"policy_kwargs": {"width": 16, **options.pop("policy_kwargs", {})}}
    return RecurrentPPO(policy, env or recall(), **{**settings, **options})


def collected(model: RecurrentPPO) -> SegmentBuffer:
    """Return the buffer after one rollout, without an update."""
    _, callback = model._setup_learn(10**6)
    callback.on_training_start({}, {})
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer
