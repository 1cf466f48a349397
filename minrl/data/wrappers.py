"""Environment wrappers for evaluation and recording: scalar rewards, and a limit on steps."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from minrl.system.messages import one_line

# Ten times the limit of MuJoCo and most of Gymnasium; ten environments as cheap as CartPole take about ten seconds.
DEFAULT_MAX_STEPS = 10_000


def scalar_reward(reward: Any) -> float:
    """Return a reward as a float: some environments give `[r]`, or an array or a tensor of one element.

    Raises:
        ValueError: for several elements, as from an environment with several objectives, or none.
    """
    if isinstance(reward, float | int):
        return float(reward)
    try:
        values = np.asarray(reward, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.size != 1:
        raise ValueError(f"the environment gave the reward {one_line(reward)[:80]}; a reward must be one number")
    return values.item()


class ScalarReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Wrapper that makes rewards floats, see `scalar_reward`."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment.

        Raises:
            ValueError: for a reward that is not one number.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, scalar_reward(reward), terminated, truncated, info


def own_limit(environment: gymnasium.Env[Any, Any]) -> int | None:
    """Return the environment's own limit of steps, which Gymnasium's `TimeLimit` writes into its spec; None without."""
    return None if environment.spec is None else environment.spec.max_episode_steps


class EpisodeLimit(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that truncates episodes after `DEFAULT_MAX_STEPS` steps if the environment has no limit of its own.

    Empty reset options, which Gymnasium's vector environments make of a `reset_mask`, become None, as in a reset
    without a mask.

    Attributes:
        max_episode_steps: the limit that applies.
        cut_off: number of episodes truncated by this wrapper.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        own = own_limit(env)
        self.max_episode_steps = DEFAULT_MAX_STEPS if own is None else own
        self._counts = own is None
        self._steps = self.cut_off = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; empty options become None."""
        self._steps = 0
        return self.env.reset(seed=seed, options=options or None)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; truncate at the limit."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        if self._counts and self._steps >= self.max_episode_steps and not (terminated or truncated):
            truncated = True
            self.cut_off += 1
        return observation, reward, terminated, truncated, info
