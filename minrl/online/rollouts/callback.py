"""Calls between the rollouts of Stable-Baselines3's loop, and the row of the log for a rollout."""

from collections.abc import Callable

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from minrl.runs.log import TIMESTEPS


class RolloutCallback(BaseCallback):
    """Callback that calls functions before a rollout, after each of its steps, and after it.

    Args:
        before: the rollout.
        step: called after each step of all environments.
        after: the rollout, before the update.
    """

    def __init__(self, before: Callable[[], None], step: Callable[[], None], after: Callable[[], None]) -> None:
        super().__init__()
        self.before, self.step, self.after = before, step, after
        self.ignores_steps = True  # see minrl.online.compiled.rollout

    def _on_rollout_start(self) -> None:
        self.before()

    def _on_step(self) -> bool:
        self.step()
        return True

    def _on_rollout_end(self) -> None:
        self.after()


def write_row(model: BaseAlgorithm, steps: int, rollouts: int, seconds: float, earlier: float) -> None:
    """Write the row of a rollout and its update.

    Args:
        model: that learns.
        steps: of this process.
        rollouts: so far.
        seconds: so far.
        earlier: seconds of earlier processes among them.
    """
    record, episodes = model.logger.record, model.ep_info_buffer
    if episodes:
        record("rollout/ep_rew_mean", float(np.mean([episode["r"] for episode in episodes])))
        record("rollout/ep_len_mean", float(np.mean([episode["l"] for episode in episodes])))
    if model.ep_success_buffer:
        record("rollout/success_rate", float(np.mean(model.ep_success_buffer)))
    if steps > 0:
        record("time/fps", round(steps / (seconds - earlier)))
    record("time/iterations", rollouts, exclude="tensorboard")
    record("time/time_elapsed", round(seconds, 2))
    record(TIMESTEPS, model.num_timesteps, exclude="tensorboard")
    model.logger.dump(model.num_timesteps)
