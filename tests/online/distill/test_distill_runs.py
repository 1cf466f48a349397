"""Runs of `minrl train distill`: exact resume, teachers of all kinds, acting, export, bad input in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ppo_runs import assert_equal, full_from, numbers, weights, whole
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import minrl
from minrl.agents.__main__ import main
from minrl.play import Player
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT

TINY: dict[str, Any] = {
    "env": "minrl/CartPoleNoVel-v1", "env_kwargs": "state=true", "teacher_keys": "state", "width": 8, "depth": 1,
    "n_envs": 2, "vectorization": "sync", "n_steps": 16, "batch_size": 32, "n_epochs": 2, "beta_steps": 100,
    "steps": 160, "log_every": 2, "checkpoint_every": 64, "evaluate_every": 96, "evaluate_episodes": 2,
    "evaluate_max_steps": 20, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "ppo.zip"
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, seed=0, device="cpu").save(path)
    return path


def words(out: Path, **settings: Any) -> list[str]:
    flags = ["train", "distill", "--no-config", "--out", str(out)]
    for name, value in (TINY | settings).items():
        dashed = name.replace("_", "-")
        flags += [] if value is None else [f"--{dashed}"] if value is True else [f"--{dashed}", str(value)]
    return flags


def test_a_run_that_was_cut_off_equals_one_that_was_not(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"teacher": teacher, "exact_resume": True, "ppo_coef": 0.1, "buffer_size": 96}
    assert main(words(tmp_path / "whole", **settings)) == 0
    with full_from(128):
        assert main(words(tmp_path / "cut", **settings)) == 2
    assert checkpoint.read(tmp_path / "cut").step == 64
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert_equal(weights(tmp_path / "whole", LAST_CHECKPOINT), weights(tmp_path / "cut", LAST_CHECKPOINT))
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")
    # The student acts without the teacher's file and without what only the teacher sees.
    agent = minrl.load(tmp_path / "whole")
    seen = {"observation": np.zeros((2, 2), np.float32)}
    player, again = Player(agent, 2), Player(agent, 2)
    first = player.act(seen, np.zeros(2), np.ones(2))
    np.testing.assert_array_equal(first, again.act(seen | {"state": np.full((2, 4), np.nan)}, np.zeros(2), np.ones(2)))
    # A run goes on with the teacher that it began with alone.
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, seed=1, device="cpu").save(tmp_path / "other.zip")
    moved = teacher.with_name("kept.zip")
    teacher.rename(moved)
    try:
        for content, message in ((None, "no such run"), (tmp_path / "other.zip", "other weights than")):
            if content is not None:
                teacher.write_bytes(content.read_bytes())
            capsys.readouterr()
            assert main(["train", "--resume", str(tmp_path / "whole"), "--steps", "192"]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1
    finally:
        moved.replace(teacher)


def test_a_run_teaches_one_that_sees_less(tmp_path: Path) -> None:
    """Check a recurrent PPO's run with normalised observations as the teacher, and a student as the next one's."""
    whole(tmp_path / "ppo", env="minrl/CartPoleNoVel-v1", env_kwargs="state=true", steps=64, evaluate_every=0,
          normalize_observations=True)  # fmt: skip
    few = {"steps": 64, "evaluate_every": 0, "teacher_keys": None}
    assert main(words(tmp_path / "a", teacher=tmp_path / "ppo", student_keys="observation", **few)) == 0
    assert minrl.load(tmp_path / "a").task.observation_size == 2
    assert main(words(tmp_path / "b", teacher=tmp_path / "a", **few)) == 0
    few |= {"env": "CartPole-v1", "env_kwargs": None}
    whole(tmp_path / "plain", steps=64, evaluate_every=0)
    assert main(words(tmp_path / "c", teacher=tmp_path / "plain" / LAST_CHECKPOINT, loss="kl", **few)) == 0


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("no teacher: --teacher takes", {}),
        ("no such run, checkpoint or .zip", {"teacher": "lost.zip"}),
        ("--teacher-keys state", {"teacher_keys": None, "teacher": "ZIP"}),
        ("--env-kwargs state=true", {"teacher_keys": None, "env_kwargs": None, "teacher": "ZIP"}),
        ("name parts of a Dict", {"env_kwargs": None, "teacher": "ZIP"}),
        ('no key "stat"; did you mean "state"', {"teacher_keys": "stat", "teacher": "ZIP"}),
        ('student_keys: the observation has no key "seen"', {"student_keys": "seen", "teacher": "ZIP"}),
        ("trained with observation_space", {"env": "minrl/PendulumNoVel-v1", "teacher": "ZIP"}),
        ("beta must", {"beta": 1.5, "teacher": "ZIP"}),
        ("loss=mse is for real actions", {"loss": "mse", "teacher": "ZIP"}),
        ("a divisor of n_steps", {"n_steps": 25, "segment_length": 10, "teacher": "ZIP"}),
    ],
)
def test_bad_input_is_one_line(
    message: str, settings: dict[str, Any], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {name: teacher if value == "ZIP" else value for name, value in settings.items()}
    assert main(words(tmp_path / "run", **given)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.slow
def test_student_learns_what_the_teacher_sees_and_is_exported(tmp_path: Path) -> None:
    """Check that a student that sees positions alone balances the pole, and that its files act as it does."""
    from minrl.evaluate import evaluate
    from minrl.export.onnx import export_onnx

    # RL Zoo's settings; its return is 500.
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8}
    settings |= {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left}
    environments = make_vec_env("CartPole-v1", 8, seed=0)
    teacher = PPO("MlpPolicy", environments, seed=0, device="cpu", **settings).learn(60_000)
    teacher.save(tmp_path / "ppo.zip")
    command = ["train", "distill", "--teacher", str(tmp_path / "ppo.zip"), "--env", "minrl/CartPoleNoVel-v1"]
    assert main([*command, "--seed", "0", "--out", str(tmp_path / "run")]) == 0
    agent: Any = minrl.load(tmp_path / "run")
    (result,) = evaluate(agent, episodes=20)
    assert result.mean_return > 400
    exported = export_onnx(agent, tmp_path / "student.onnx", steps=60)
    assert exported.inputs["observation"] == ("batch", 2)
    assert exported.agreement.action <= 1e-5
