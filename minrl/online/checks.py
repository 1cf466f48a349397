"""Checks of the inputs that environments and callbacks give to a policy.

Shapes: n_envs environments.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EventCallback


def check_rewards(rewards: npt.NDArray[Any], steps: int) -> None:
    """Raise ValueError for rewards (n_envs,) that are not finite at step `steps`."""
    if not np.isfinite(rewards).all():
        row = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise ValueError(f"environment {row} returned the reward {rewards[row]} at step {steps}; it must be finite")


def check_observations(observations: Any, steps: int) -> None:
    """Raise ValueError for real-valued observations (n_envs, ...), or a dict of them, that are not finite."""
    named = observations.items() if isinstance(observations, dict) else [("observation", observations)]
    for name, values in named:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
            raise ValueError(f"environment {row} returned an {name!r} that is not finite at step {steps}")


def check_callbacks(callback: BaseCallback) -> None:
    """Raise ValueError for an EvalCallback, which gives no rewards to a policy that reads them."""
    if isinstance(callback, EvalCallback):
        raise ValueError(
            "EvalCallback gives no rewards to a policy with previous_reward: put the reward into the observation with "
            "the wrapper PreviousReward instead, in training and in evaluation"
        )
    if isinstance(callback, CallbackList):
        for each in callback.callbacks:
            check_callbacks(each)
    elif isinstance(callback, EventCallback) and callback.callback is not None:
        check_callbacks(callback.callback)
