"""Stable-Baselines3's callbacks, schedules and logs with recurrent PPO."""

from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import sb3_contrib
from gymnasium.wrappers import TimeLimit
from ppo_models import acts_alike, every_policy, small
from stable_baselines3.common import callbacks
from stable_baselines3.common.env_util import make_vec_env
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minrl.agents.ppo import RecurrentPPO


@every_policy
def test_they_evaluate_save_and_stop(family: str, tmp_path: Path) -> None:
    model = small(family, make_vec_env("CartPole-v1", 2))
    stop = callbacks.StopTrainingOnRewardThreshold(reward_threshold=5)
    judge = callbacks.EvalCallback(
        make_vec_env("CartPole-v1", 3), callback_on_new_best=stop, n_eval_episodes=3, eval_freq=20,
        log_path=str(tmp_path), best_model_save_path=str(tmp_path),
    )  # fmt: skip
    keep = callbacks.CheckpointCallback(10, str(tmp_path), name_prefix="kept")
    calls: list[int] = []
    often = callbacks.EveryNTimesteps(6, callbacks.ConvertCallback(lambda *_: calls.append(1) is None))
    model.learn(500, [keep, often, judge])
    assert model.num_timesteps == 40
    assert len(calls) == 6
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (1, 3)
    observation = np.full((2, 4), 0.01, np.float32)
    assert acts_alike(RecurrentPPO.load(tmp_path / "best_model"), model, observation)
    assert RecurrentPPO.load(tmp_path / "kept_40_steps").num_timesteps == 40


@pytest.mark.filterwarnings("ignore:rich is experimental")
@every_policy
def test_they_stop_after_episodes_and_without_improvement(family: str) -> None:
    model = small(family)
    model.learn(10_000, callbacks.StopTrainingOnMaxEpisodes(3), progress_bar=True)
    assert model.num_timesteps < 400
    patience = callbacks.StopTrainingOnNoModelImprovement(max_no_improvement_evals=1)
    env = make_vec_env(lambda: TimeLimit(gymnasium.make("CartPole-v1"), 5), 1)  # the best possible return is 5
    model.learn(10_000, callbacks.EvalCallback(env, callback_after_eval=patience, eval_freq=20, n_eval_episodes=1))
    assert model.num_timesteps == 60


@every_policy
def test_schedules_follow_the_progress_that_remains(family: str) -> None:
    seen = []

    class Watch(callbacks.BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append(dict(self.logger.name_to_value))

    model = small(family, learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.2 * left, clip_range_vf=0.3)
    model.learn(64, Watch(), log_interval=100)
    seen.append(dict(model.logger.name_to_value))
    assert [row["train/learning_rate"] for row in seen[1:]] == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0])
    assert [row["train/clip_range"] for row in seen[1:]] == pytest.approx([0.15, 0.1, 0.05, 0])
    assert seen[-1]["train/clip_range_vf"] == 0.3
    with pytest.raises(AssertionError, match="clip_range_vf"):
        small(family, clip_range_vf=-1.0)


@every_policy
def test_a_large_step_of_the_policy_ends_the_update(family: str) -> None:
    bold = {"n_epochs": 20, "learning_rate": 0.1, "batch_size": 8}
    free, held = (small(family, target_kl=target, **bold).learn(16) for target in (None, 1e-3))
    assert free._n_updates == 20
    assert held._n_updates < 5


@every_policy
def test_tensorboard_shows_the_tags_of_sb3_contrib(family: str, tmp_path: Path) -> None:
    names = {}
    theirs = partial(sb3_contrib.RecurrentPPO, "MlpLstmPolicy", "CartPole-v1", n_steps=16, n_epochs=1)
    for who, make in (("ours", partial(small, family)), ("theirs", theirs)):
        make(tensorboard_log=str(tmp_path / who)).learn(128)
        (folder,) = (tmp_path / who).iterdir()
        assert folder.name == "RecurrentPPO_1"
        names[who] = set(EventAccumulator(str(folder)).Reload().Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "train/loss", "time/fps"} <= names["theirs"]
    assert names["theirs"] <= names["ours"]
