"""Rewards as one number each: some environments give `[r]`, or an array or a tensor of one number."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs


def scalar_reward(reward: Any) -> float:
    """Return the one number in a reward.

    Raises:
        ValueError: where there is another count of numbers, as from an environment with several objectives.
    """
    if isinstance(reward, float | int):
        return float(reward)
    try:
        values = np.asarray(reward, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.size != 1:
        shown = " ".join(str(reward).split())
        raise ValueError(f"the environment gave the reward {shown[:80]}; a reward must be one number")
    return values.item()


class ScalarReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment whose rewards are floats, see `scalar_reward`."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment.

        Raises:
            ValueError: for a reward of several numbers or of none.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, scalar_reward(reward), terminated, truncated, info
