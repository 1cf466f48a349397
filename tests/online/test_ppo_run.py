"""Runs of recurrent PPO: files, environments, evaluation, video."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from ppo_runs import assert_equal, numbers, steps_of, weights, whole, words
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from worlds import own_folders

from minrl.agents.__main__ import main
from minrl.runs import checkpoint
from minrl.runs.folder import BEST_CHECKPOINT, LAST_CHECKPOINT
from minrl.runs.log import TIMESTEPS, read_log

__all__ = ["own_folders"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run to its end."""
    out = tmp_path_factory.mktemp("module") / "run"
    whole(out)
    return out


def test_files_of_a_run(run: Path) -> None:
    assert {path.name for path in run.iterdir() if "tfevents" not in path.name} == {
        "config.toml",
        "checkpoint.pt",
        "previous.pt",
        "best.pt",
        "progress.csv",
        "summary.json",
        "learning_curve.png",
    }
    assert steps_of(run) == list(range(64, 321, 64))
    assert steps_of(run, "eval/mean_reward") == list(range(64, 321, 64))
    last = read_log(run, TIMESTEPS)[-1]
    assert {"rollout/ep_rew_mean", "train/loss", "time/fps", "time/rollout_fps", "time/update_fps"} <= last.keys()
    assert last["train/n_updates"] == 20
    saved = checkpoint.read(run)
    assert (saved.agent, saved.step, saved.note["label"]) == ("ppo", 320, "last checkpoint")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["evaluation"]["mean_return"] == last["eval/mean_reward"]
    assert summary["steps_per_second"] == pytest.approx(320 / summary["training_seconds"])


def test_the_best_is_labelled_so(run: Path) -> None:
    saved = checkpoint.read(run / BEST_CHECKPOINT)
    scores = [row["eval/mean_reward"] for row in read_log(run, TIMESTEPS) if "eval/mean_reward" in row]
    assert saved.note["label"] == "best of the evaluations during training"
    assert saved.note["evaluation"]["mean_return"] == max(scores)
    assert saved.step == 64 * (1 + int(np.argmax(scores)))
    assert saved.training == {}


def test_a_checkpoint_holds_tensors_and_plain_values(run: Path) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                check(key)
                check(part)
        elif isinstance(value, list | tuple):
            for part in value:
                check(part)
        else:
            assert type(value) in (torch.Tensor, str, int, float, bool, type(None)), type(value)

    for name in (LAST_CHECKPOINT, BEST_CHECKPOINT):
        check(dict(torch.load(run / name, weights_only=True)))


def test_curves_in_tensorboard(run: Path) -> None:
    events = EventAccumulator(str(run)).Reload()
    for name in ("eval/mean_reward", "eval/mean_ep_length", "rollout/ep_rew_mean", "train/loss", "time/update_fps"):
        points = events.Scalars(name)
        assert [point.step for point in points] == list(range(64, 321, 64))
        logged = [row[name] for row in read_log(run, TIMESTEPS)]
        assert [point.value for point in points] == pytest.approx(logged, rel=1e-5)


def test_its_config_repeats_it(run: Path, tmp_path: Path) -> None:
    assert main(["train", "ppo", "--config", str(run / "config.toml"), "--out", str(tmp_path / "again")]) == 0
    assert_equal(weights(run), weights(tmp_path / "again"))
    assert numbers(run) == numbers(tmp_path / "again")


def test_evaluations_leave_no_trace_in_training(run: Path, tmp_path: Path) -> None:
    whole(tmp_path / "none", evaluate_every=0)
    whole(tmp_path / "often", evaluate_every=32, evaluate_episodes=2, log_every=1)
    assert not (tmp_path / "none" / BEST_CHECKPOINT).exists()
    assert_equal(weights(run), weights(tmp_path / "none"))
    assert_equal(weights(run), weights(tmp_path / "often"))


def test_environments_in_processes_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compare them with environments in this process."""
    for kind in ("sync", "async"):
        whole(tmp_path / kind, vectorization=kind, steps=64)
        assert f"CartPole-v1, 2 at once ({kind})" in capsys.readouterr().out
    assert_equal(weights(tmp_path / "sync"), weights(tmp_path / "async"))


def test_video(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    out = tmp_path / "run"
    whole(out, steps=64, video=True)
    saved = checkpoint.read(out / BEST_CHECKPOINT).note["evaluation"]
    with Image.open(out / "videos/step_64.gif") as film:
        assert film.format == "GIF"
        assert film.size == (320, 213)
        # CartPole runs at 50 steps a second: every other frame is kept, and the last.
        assert 1 < film.n_frames <= saved["lengths"][0] / 2 + 1.5
        milliseconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(film))
        assert milliseconds == pytest.approx(20 * saved["lengths"][0], abs=40)
    (event,) = EventAccumulator(str(out)).Reload().Images("eval/episode")
    assert (event.step, event.width, event.height) == (64, 320, 213)
    assert event.encoded_image_string == (out / "videos/step_64.gif").read_bytes()


def test_evaluating_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train natively vectorised and evaluate alone, in an environment of ours with continuous actions."""
    out = tmp_path / "run"
    whole(out, env="minrl/PendulumNoVel-v1", vectorization="auto", steps=64, evaluate_every=0,
          normalize_observations=True)  # fmt: skip
    assert "minrl/PendulumNoVel-v1, 2 at once (natively vectorised)" in capsys.readouterr().out
    command = ["evaluate", str(out), "--episodes", "2", "--json"]
    results = []
    for extra in ([], ["--sample"], ["--env", "minrl.envs:minrl/PendulumNoVel-v1"]):
        assert main([*command, *extra]) == 0
        results.append(json.loads(capsys.readouterr().out))
    likely, sampled, named = results
    assert likely["agent"] == "ppo"
    assert likely["lengths"] == [200, 200]
    assert named["returns"] == likely["returns"] != sampled["returns"]
    assert main(["evaluate", str(out), "--env", "CartPole-v1"]) == 2
    assert "this agent was trained for on env:minrl/PendulumNoVel-v1" in capsys.readouterr().err


def test_a_loss_that_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(words(out, learning_rate=1e30)) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("minrl: the loss is not finite by step 32: lower --learning-rate")
    assert "\n" not in error
    assert checkpoint.read(out).step == 0


def test_a_truncated_row_of_the_log_is_dropped(tmp_path: Path) -> None:
    """Drop it whatever column comes first."""
    (tmp_path / "progress.csv").write_text("time/total_timesteps,train/loss,eval/mean_reward\n32,0.5,\n64,0.25,7.0\n9")
    assert read_log(tmp_path, TIMESTEPS) == [
        {TIMESTEPS: 32.0, "train/loss": 0.5},
        {TIMESTEPS: 64.0, "train/loss": 0.25, "eval/mean_reward": 7.0},
    ]
