"""Algorithm of Stable-Baselines3 that carries a hidden state from one call of `learn` to the next.

Shapes: n_envs environments, S state size.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from minrl.online.checks import check_callbacks
from minrl.online.spaces import prepared
from minrl.online.state import random_states, restore_random_states


class CarriesState(BaseAlgorithm):
    """Mixin of recurrent algorithms, before Stable-Baselines3's class in the list of bases."""

    policy: Any
    _last_state: Tensor  # (n_envs, S) before the next step
    _random_states: dict[str, Any] | None = None  # of a loaded model, until it learns again

    @abstractmethod
    def forget(self) -> None:
        """Reset the hidden state, as after a reset of all environments."""

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment as in Stable-Baselines3; the hidden state is not carried over."""
        super().set_env(env, force_reset)
        self.forget()
        self._last_episode_starts = np.ones(self.n_envs, dtype=bool)

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Save as Stable-Baselines3 does, with the random generators.

        A loaded model that learns on with `reset_num_timesteps=False` draws the same random numbers as the saved one.
        Environments are not saved: where they are reset, so is the hidden state. A replay buffer has a file of its own.
        """
        self._random_states = random_states()
        try:
            super().save(path, exclude, include)
        finally:
            self._random_states = None

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return BaseAlgorithm._wrap_env(prepared(env), verbose, monitor_wrapper)

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *others: Any
    ) -> tuple[int, BaseCallback]:
        ready = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *others)
        if self.policy.previous_reward:
            check_callbacks(ready[1])
        if len(self._last_state) != self.n_envs or np.all(self._last_episode_starts):
            self.forget()
        if self._random_states is not None and not reset_num_timesteps:
            restore_random_states(self._random_states)
        self._random_states = None
        return ready
