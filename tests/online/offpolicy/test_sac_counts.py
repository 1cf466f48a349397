"""Counted steps of recurrent SAC where an environment only resets in some of them."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.callbacks import BaseCallback

from minrl.agents.sac import RecurrentSAC
from minrl.online.vector import as_vec_env

stepped: list[int] = []  # the step of its episode, of each step that an environment makes


class Counter(gymnasium.Env[Any, Any]):
    """Environment that records its steps; episodes of 1 to 5 steps."""

    observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.ends = 0, int(self.np_random.integers(1, 6))
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        stepped.append(self.time)
        done = self.time == self.ends
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), 1.0, done, False, {"done": done}


class Counts(BaseCallback):
    """Callback that compares the algorithm's counter with the environments' steps, after each step."""

    def _on_training_start(self) -> None:
        self.ends = [0]  # of rollouts

    def _on_rollout_end(self) -> None:
        self.ends.append(self.num_timesteps)

    def _on_step(self) -> bool:
        assert self.num_timesteps == self.model.num_timesteps == len(stepped)
        return True


@pytest.mark.parametrize("mode", AutoresetMode)
def test_timesteps_and_updates_follow_the_steps_that_environments_make(mode: AutoresetMode) -> None:
    stepped.clear()
    model = RecurrentSAC(
        "MlpPolicy", as_vec_env(SyncVectorEnv([Counter] * 3, autoreset_mode=mode)), learning_starts=30, train_freq=4,
        gradient_steps=-1, batch_size=16, segment_length=4, buffer_size=300, seed=0, device="cpu",
        policy_kwargs={"width": 8, "depth": 1},
    )  # fmt: skip
    watch = Counts()
    model.learn(90, watch, log_interval=None)
    buffer = model.replay_buffer
    stored = [buffer.arrays["final"][row, :size] for row, size in enumerate(buffer.sizes)]
    ends = sum(int(row.sum()) for row in stored)
    assert model.num_timesteps == len(stepped) == buffer.size() - ends >= 90
    assert model._episode_num == ends == sum(time == 1 for time in stepped) - sum(not row[-1] for row in stored)
    # As many as steps, from the first rollout that ends beyond the start of learning.
    assert model._n_updates == watch.ends[-1] - max(end for end in watch.ends if end <= 30)
