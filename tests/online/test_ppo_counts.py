"""Counted steps, explained variance and minibatch sizes of recurrent PPO."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from ppo_runs import words
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from worlds import own_folders

from minrl.agents.__main__ import main
from minrl.agents.ppo import RecurrentPPO
from minrl.online.settings import OnlineConfig
from minrl.online.vector import as_vec_env
from minrl.runs import checkpoint
from minrl.runs.log import TIMESTEPS, read_log

__all__ = ["own_folders"]

stepped: list[int] = []


class Counter(gymnasium.Env[Any, Any]):
    """Environment that counts its steps; episodes of 1 to 5 steps, random rewards."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        stepped.append(1)
        ends = self.np_random.random() < 0.3
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), float(self.np_random.normal()), ends, False, {}


class Explained(BaseCallback):
    """Callback that records the rows of the first rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        self.rows = self.buffer.values.copy(), self.buffer.returns.copy(), self.buffer.fillers.copy()


@pytest.mark.parametrize("wrapper", [lambda env: env, VecNormalize])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_timesteps_are_the_steps_that_environments_make(mode: AutoresetMode, wrapper: Any) -> None:
    environment = wrapper(as_vec_env(SyncVectorEnv([Counter] * 3, autoreset_mode=mode)))
    stepped.clear()
    model = RecurrentPPO("MlpPolicy", environment, n_steps=20, batch_size=20, n_epochs=1, device="cpu",
                         policy_kwargs={"width": 8, "depth": 1}, seed=0)  # fmt: skip
    watch = Explained()
    model.learn(100, watch)
    assert model.num_timesteps == len(stepped) >= 100
    values, returns, fillers = watch.rows
    assert fillers.any() == (mode is AutoresetMode.NEXT_STEP)
    # By definition, over real steps.
    residual = np.var(returns[~fillers].astype(np.float64) - values[~fillers])
    explained = 1 - residual / np.var(returns[~fillers].astype(np.float64))
    assert model.logger.name_to_value["train/explained_variance"] == pytest.approx(explained, abs=1e-5)


def test_vector_environments_of_stable_baselines_have_no_fillers() -> None:
    stepped.clear()
    model = RecurrentPPO("MlpPolicy", VecMonitor(DummyVecEnv([Counter] * 2)), n_steps=8, batch_size=8, n_epochs=1,
                         device="cpu", policy_kwargs={"width": 8, "depth": 1})  # fmt: skip
    model.learn(32)
    assert model.num_timesteps == len(stepped) == 32


def test_environments_in_processes_of_their_own() -> None:
    """Count from outside: steps are rows less episodes that ended before the last row."""
    environment = as_vec_env(AsyncVectorEnv([Counter] * 2, autoreset_mode=AutoresetMode.NEXT_STEP))
    model = RecurrentPPO("MlpPolicy", environment, n_steps=40, batch_size=40, n_epochs=1, device="cpu",
                         policy_kwargs={"width": 8, "depth": 1}, seed=1)  # fmt: skip
    watch = Explained()
    model.learn(50, watch)
    environment.close()
    assert model.num_timesteps == 80 - int(watch.rows[2].sum()) < 80


class OwnMode(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Vector environment that supports NEXT_STEP alone."""

    def __init__(self, num_envs: int = 1) -> None:
        self.inner = SyncVectorEnv([Counter] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = Counter.observation_space, Counter.action_space
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.inner.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        return self.inner.step(actions)


def test_a_run_counts_the_steps_of_its_environments(tmp_path: Path) -> None:
    """Check log, checkpoint and resumption, as rollouts then differ in steps."""
    gymnasium.register("Counter-v0", entry_point=Counter, vector_entry_point=OwnMode)
    try:
        stepped.clear()
        settings = {"env": "Counter-v0", "n_envs": 2, "n_steps": 16, "batch_size": 16, "steps": 150, "log_every": 1}
        settings |= {"vectorization": "native", "evaluate_every": 0, "checkpoint_every": 40}
        assert main(words(tmp_path / "run", **settings)) == 0
        rows = read_log(tmp_path / "run", TIMESTEPS)
        assert rows[-1][TIMESTEPS] == checkpoint.read(tmp_path / "run").step == len(stepped) >= 150
        assert [row["time/iterations"] for row in rows] == list(range(1, len(rows) + 1))
        assert len({round(b[TIMESTEPS] - a[TIMESTEPS]) for a, b in pairwise(rows)}) > 1
        assert main(["train", "--resume", str(tmp_path / "run")]) == 0
        assert read_log(tmp_path / "run", TIMESTEPS)[-1][TIMESTEPS] == rows[-1][TIMESTEPS]
    finally:
        del gymnasium.registry["Counter-v0"]


@pytest.mark.parametrize(
    ("n_steps", "segment_length", "batch_size", "longest"),
    [(64, 64, 32, 64), (100, 30, 20, 25), (128, 65, 63, 64), (10, 99, 9, 10)],
)
def test_segments_that_do_not_fit_a_minibatch(n_steps: int, segment_length: int, batch_size: int, longest: int) -> None:
    message = f"segments of {longest} steps do not fit a minibatch of {batch_size}"
    settings: dict[str, Any] = {"n_steps": n_steps, "segment_length": segment_length, "batch_size": batch_size}
    with pytest.raises(ValueError, match=message):
        RecurrentPPO("MlpPolicy", "CartPole-v1", **settings)
    with pytest.raises(ValueError, match=message) as caught:
        OnlineConfig(env="CartPole-v1", **settings)
    assert "\n" not in str(caught.value)
    OnlineConfig(env="CartPole-v1", **settings | {"batch_size": longest})
    OnlineConfig(env="CartPole-v1", **settings | {"batch_size": 0})
    RecurrentPPO("MlpPolicy", "CartPole-v1", **settings | {"batch_size": None})


def test_a_loaded_model_is_checked_as_a_new_one(tmp_path: Path) -> None:
    """Load with segments longer than a minibatch: a rollout of 64 steps is one, and would override `batch_size`."""
    settings: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "policy_kwargs": {"width": 8, "depth": 1}}
    RecurrentPPO("MlpPolicy", "CartPole-v1", segment_length=32, device="cpu", **settings).save(tmp_path / "model")
    with pytest.raises(ValueError, match="segments of 64 steps do not fit a minibatch of 32"):
        RecurrentPPO.load(tmp_path / "model", segment_length=64)
    with pytest.raises(ValueError, match="segments of 32 steps do not fit a minibatch of 16"):
        RecurrentPPO.load(tmp_path / "model", custom_objects={"batch_size": 16})
    assert RecurrentPPO.load(tmp_path / "model", segment_length=16).rollout_buffer.segment_length == 16
