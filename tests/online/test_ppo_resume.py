"""Resuming interrupted runs of recurrent PPO from their last checkpoint."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from forked import Forked, cut_off_at, cut_off_when, wait_until
from ppo_runs import assert_equal, numbers, steps_of, weights, whole, words
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.agents.ppo import RecurrentPPO
from minrl.online.rollouts import long as long_rollouts
from minrl.online.train import resume
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT
from minrl.runs.log import TIMESTEPS, read_log

__all__ = ["cartpole", "own_folders"]


def reconfigure(out: Path, **settings: Any) -> None:
    """Change the settings of a run before it is resumed."""
    content = torch.load(out / LAST_CHECKPOINT, weights_only=True)
    content["training"]["config"] |= settings
    torch.save(content, out / LAST_CHECKPOINT)


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.slow), {"normalize_observations": True, "normalize_rewards": True}],
    ids=["", "normalised"],
)
def test_two_resumptions_are_equal(options: dict[str, Any], tmp_path: Path) -> None:
    """Continue the log and the learning rate where they were."""
    whole(tmp_path / "first", steps=160, **options)
    reconfigure(tmp_path / "first", steps=320)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    shutil.copytree(tmp_path / "first", tmp_path / "third")
    for name in ("first", "second"):
        assert main(["train", "--resume", str(tmp_path / name)]) == 0
    assert_equal(weights(tmp_path / "first"), weights(tmp_path / "second"))
    assert numbers(tmp_path / "first") == numbers(tmp_path / "second")
    assert numbers(tmp_path / "first")[:3] == numbers(tmp_path / "third")
    # The run ended at 160, and 192 is the next whole rollout.
    assert steps_of(tmp_path / "first") == [64, 128, 160, 192, 256, 320]
    rows = read_log(tmp_path / "first", TIMESTEPS)
    assert [row["train/n_updates"] for row in rows] == [4, 8, 10, 12, 16, 20]
    assert [row["train/learning_rate"] for row in rows[3:]] == pytest.approx([0.01 * x for x in (0.4, 0.2, 0.0)])
    # The resumed run has another seed, or it would repeat the first one's episodes.
    before, after = (checkpoint.read(tmp_path / name).training["model"]["episodes"] for name in ("third", "first"))
    assert [r for r, *_ in after][: len(before)] == [r for r, *_ in before]
    assert [r for r, *_ in after][len(before) : 2 * len(before)] != [r for r, *_ in before]


def test_a_finished_run_resumes_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole(tmp_path / "run", steps=64)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    assert main(["train", "--resume", str(tmp_path / "again")]) == 0
    assert "the last one, after 64 steps" in capsys.readouterr().out
    assert numbers(tmp_path / "run") == numbers(tmp_path / "again")
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "again"))


def test_after_kill_9(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    long = {"steps": 1_000_000, "log_every": 1}
    assert cut_off_at(10, signal.SIGKILL, *words(out, **long)).returncode == -signal.SIGKILL
    saved = checkpoint.read(out)
    assert saved.step > 0
    assert saved.step % 32 == 0
    with (out / "progress.csv").open("a") as log:
        log.write("0.1,2")  # a row that the kill cut in half
    reconfigure(out, steps=saved.step + 64)
    assert main(["train", "--resume", str(out)]) == 0
    assert steps_of(out) == list(range(32, saved.step + 65, 32))
    events = EventAccumulator(str(out)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == steps_of(out)
    assert [event.step for event in events.Scalars("eval/mean_reward")] == steps_of(out, "eval/mean_reward")


def test_a_signal_saves_first(tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    settings = {"steps": 1_000_000, "checkpoint_every": 1_000_000, "evaluate_every": 0}
    done = cut_off_at(3, signal.SIGTERM, *words(out, **settings))
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "Traceback" not in done.stderr
    saved = checkpoint.read(out)
    assert 192 <= saved.step < 1_000_000
    assert done.stdout.splitlines()[-1] == (
        f"stopped at step {saved.step} and saved; resume it by: minrl train --resume {out}"
    )


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_a_signal_breaks_off_a_long_update(exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop within the fourth update, in the state before its rollout, or in that of an exact run's last checkpoint."""
    settings = {"steps": 192, "checkpoint_every": 64, "exact_resume": exact, "evaluate_every": 0, "decay": "constant"}
    out, updates, train = tmp_path / "stopped", 0, RecurrentPPO.train
    monkeypatch.setattr(long_rollouts, "LONG", 0.0)

    def signalled(self: RecurrentPPO) -> None:
        nonlocal updates
        updates += 1
        train(self)  # the weights have changed already
        if updates == 4:
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the update was not broken off")

    with monkeypatch.context() as patch:
        patch.setattr(RecurrentPPO, "train", signalled)
        assert main(words(out, **settings)) == 128 + signal.SIGTERM
    saved = checkpoint.read(out)
    assert saved.step == (64 if exact else 96)
    whole(tmp_path / "whole", **settings | {"steps": 96})
    if not exact:
        assert_equal(weights(out), weights(tmp_path / "whole"))
        state, other = (checkpoint.read(run).training["model"] for run in (out, tmp_path / "whole"))
        assert_equal(*({f"{n}/{k}": v for n, e in s["optimizer"]["state"].items() for k, v in e.items()}
                       for s in (state, other)))  # fmt: skip
    assert main(["train", "--resume", str(out)]) == 0
    assert checkpoint.read(out).step == 192


def test_a_signal_during_an_evaluation(tmp_path: Path) -> None:
    """Cancel it, and evaluate again on resume."""
    out = tmp_path / "stopped"
    settings = {"evaluate_episodes": 10_000_000, "log_every": 1, "checkpoint_every": 64}

    def evaluates() -> bool:
        """Return True if the checkpoint before the evaluation exists."""
        return (out / LAST_CHECKPOINT).is_file() and checkpoint.read(out).step == 64

    done = cut_off_when(evaluates, signal.SIGTERM, *words(out, **settings))
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "stopped at step 64 and saved" in done.stdout
    reconfigure(out, evaluate_episodes=3, steps=96)
    assert main(["train", "--resume", str(out)]) == 0
    assert steps_of(out, "eval/mean_reward") == [64, 96]


def test_ctrl_c_reaches_environments_too(tmp_path: Path) -> None:
    """Finish the rollout though a terminal sends Ctrl-C to all processes."""
    out = tmp_path / "run"
    process = Forked(*words(out, vectorization="async", n_envs=1, steps=1_000_000), own_session=True)
    wait_until(lambda: len(steps_of(out)) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "and saved; resume it by" in stdout
    assert "Traceback" not in stderr


def test_from_a_pretrained_agent(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Create and resume the run after the pretrained agent's own run is gone."""
    small = ["--width", "16", "--depth", "1", "--steps", "3", "--batch-size", "2", "--length", "16", "--threads", "1"]
    start = tmp_path / "clone"
    assert main(["train", "clone", "--data", cartpole, *small, "--evaluate-every", "0", "--out", str(start)]) == 0
    out = tmp_path / "run"
    whole(out, steps=64, pretrained=start, pretrained_kl=0.5)
    assert f'pretrained = "{start}"' in (out / "config.toml").read_text()
    shutil.rmtree(start)
    reconfigure(out, steps=128)
    assert main(["train", "--resume", str(out)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out), "--episodes", "3", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["returns"] == json.loads((out / "summary.json").read_text())["evaluation"]["returns"]


def test_an_environment_of_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Import the module only where the user names it: a file that names one runs no code."""
    mark = tmp_path / "imported"
    (tmp_path / "owned.py").write_text(
        f"import gymnasium, pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "gymnasium.register('Owned-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=20)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    try:
        whole(out, env="owned:Owned-v0", steps=64)
        mark.unlink()
        monkeypatch.delitem(sys.modules, "owned")
        gymnasium.registry.pop("Owned-v0")
        reconfigure(out, steps=96)
        command = ["train", "--resume", str(out)]
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err.strip()
        assert "the checkpoint names environment owned:Owned-v0, which no installed package registers" in error
        assert not mark.exists()
        assert main(["train", "--env", "Pendulum-v1", "--resume", str(out)]) == 2
        assert "was trained in owned:Owned-v0, not in Pendulum-v1" in capsys.readouterr().err
        assert main([*command, "--env", "owned:Owned-v0"]) == 0
        assert mark.exists()
    finally:
        gymnasium.registry.pop("Owned-v0", None)
    assert checkpoint.read(out).step == 96


def test_a_checkpoint_without_a_part(tmp_path: Path) -> None:
    whole(tmp_path / "run", steps=32, evaluate_every=0)
    content = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    for part in ("model", "random", "config", "best"):
        rest = {name: value for name, value in content["training"].items() if name != part}
        torch.save({**content, "training": rest}, tmp_path / "run/checkpoint.pt")
        with pytest.raises(ValueError, match=r"cannot be resumed|nothing to resume") as caught:
            resume(tmp_path / "run")
        assert "\n" not in str(caught.value), part


def test_another_environment_under_the_id(tmp_path: Path) -> None:
    whole(tmp_path / "run", steps=32, evaluate_every=0)
    reconfigure(tmp_path / "run", env="Pendulum-v1")
    with pytest.raises(ValueError, match=r"Pendulum-v1: its observation space .* does not match"):
        resume(tmp_path / "run")
