"""An environment of random observations for any spaces, and options of PPO that add inputs."""

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from worlds import ACTIONS

NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}
TOLD = {"previous_action": True, "previous_reward": True}
OBSERVATIONS: dict[str, gymnasium.Space[Any]] = {
    "box": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "discrete": spaces.Discrete(5, start=2),
    "multibinary": spaces.MultiBinary(4),
    "tuple": spaces.Tuple([spaces.Discrete(3, start=-1), spaces.Box(-9.0, 9.0, (2, 2), np.float32)]),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "nested": spaces.Dict(
        {
            "speed": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "hand": spaces.Tuple([spaces.MultiDiscrete([2, 4], start=[1, 0]), spaces.Discrete(3)]),
            "picture": spaces.Box(0, 255, (36, 37, 1), np.uint8),
        }
    ),
}
CHOICES: dict[str, gymnasium.Space[Any]] = {
    "choices": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]),
    "one": spaces.Box(np.array([-0.02]), np.array([0.5]), dtype=np.float32),
}


class Noise(gymnasium.Env[Any, Any]):
    """Environment of random observations that depend on the last action; every action enters the reward."""

    def __init__(self, observations: str = "box", actions: str = "discrete") -> None:
        # Each space has a generator of its own.
        self.observation_space = copy.deepcopy(OBSERVATIONS[observations])
        self.action_space = (ACTIONS | CHOICES)[actions]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.steps += 1
        flat = spaces.flatten(self.action_space, action).astype(np.float64)
        reward = 7.0 * float((flat * np.arange(1, len(flat) + 1)).sum()) - 3.0
        return self.observation_space.sample(), reward, bool(self.np_random.random() < 0.1), self.steps == 20, {}
