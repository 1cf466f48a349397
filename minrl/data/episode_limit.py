"""A limit on the steps of an episode that is played to its end, for environments that need not end one."""

from typing import Any

import gymnasium

# Ten times MuJoCo's and most of Gymnasium's limits; ten environments of CartPole's cost take about ten seconds.
DEFAULT_MAX_STEPS = 10_000


def own_limit(environment: gymnasium.Env[Any, Any]) -> int | None:
    """Return the steps after which the environment's own time limit truncates an episode; None where it states none.

    Gymnasium writes the limit of the `TimeLimit` wrapper into the environment's spec.
    """
    return None if environment.spec is None else environment.spec.max_episode_steps


class EpisodeLimit(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose every episode is reset alike and ends after `DEFAULT_MAX_STEPS` steps at the latest.

    Episodes of an environment with a time limit of its own are left to it. Empty reset options, which Gymnasium's
    vector environments make of a `reset_mask`, become None, which is what they hand in without one.

    Attributes:
        max_episode_steps: the limit that applies.
        cut_off: episodes that it truncated here.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        own = own_limit(env)
        self.max_episode_steps = DEFAULT_MAX_STEPS if own is None else own
        self._counts = own is None
        self._steps = self.cut_off = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset as the environment does; no options are None."""
        self._steps = 0
        return self.env.reset(seed=seed, options=options or None)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step as the environment does; truncated at the limit."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        if self._counts and self._steps >= self.max_episode_steps and not (terminated or truncated):
            truncated = True
            self.cut_off += 1
        return observation, reward, terminated, truncated, info
