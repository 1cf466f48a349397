"""Offline training: files of a run, and results that depend on its config alone."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import minrl
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from worlds import TINY, cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.runs import checkpoint
from minrl.runs.folder import BEST_CHECKPOINT, LAST_CHECKPOINT
from minrl.runs.log import STEP, read_log
from minrl.training.offline import TrainConfig, resume, train
from minrl.training.optimizer import Schedule, newest_share

__all__ = ["cartpole", "own_folders"]

SMALL = DecisionConfig(width=16, depth=1)


def config_for(data: str, **options: Any) -> TrainConfig:
    defaults = {"steps": 30, "batch_size": 2, "length": 32, "log_every": 10, "evaluate_every": 0, "threads": 1}
    return TrainConfig(data=data, **defaults | options)


def weights_of(run: Path, name: str = LAST_CHECKPOINT) -> dict[str, torch.Tensor]:
    return checkpoint.read(run / name).weights


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_files_of_a_run(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    config = config_for(cartpole, steps=40, evaluate_every=20, evaluate_episodes=4, checkpoint_every=15)
    result = train(DecisionAgent, SMALL, config, out)
    rows = read_log(out)
    trained = [row for row in rows if "train/loss" in row]
    evaluated = [row for row in rows if "eval/mean_reward" in row]
    assert [row[STEP] for row in trained] == [10, 20, 30, 40]
    assert [row[STEP] for row in evaluated] == [20, 40]
    assert trained[0]["time/fps"] == pytest.approx(64 * trained[0]["time/steps_per_second"], abs=1)
    assert result.evaluation is not None
    assert evaluated[-1]["eval/mean_reward"] == pytest.approx(result.evaluation.mean_return)
    score = (evaluated[-1]["eval/mean_reward"] - 10) / 490 * 100
    assert evaluated[-1]["eval/normalized_score"] == pytest.approx(score, rel=1e-5)
    last = checkpoint.read(out)
    assert last.step == 40
    assert last.note["label"] == "last checkpoint"
    assert {"minrl", "torch", "gymnasium"} <= set(last.note["versions"])
    terminal = capsys.readouterr().out
    assert terminal.count("n_updates") == 6
    assert terminal.count("normalized_score") == 2


def test_curves_in_tensorboard(cartpole: str, tmp_path: Path) -> None:
    train(DecisionAgent, SMALL, config_for(cartpole, evaluate_every=15, evaluate_episodes=2), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    tags = {"train/loss", "train/grad_norm", "train/learning_rate", "eval/mean_reward", "eval/mean_ep_length"}
    assert tags | {"eval/normalized_score", "time/fps"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20, 30]
    assert [event.step for event in events.Scalars("eval/mean_reward")] == [15, 30]
    losses = [row["train/loss"] for row in read_log(tmp_path / "run") if "train/loss" in row]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)


def test_the_best_weights_are_kept_and_labelled(cartpole: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(DecisionAgent, SMALL, config_for(cartpole, steps=60, evaluate_every=10, evaluate_episodes=5), out)
    means = {row[STEP]: row["eval/mean_reward"] for row in read_log(out) if "eval/mean_reward" in row}
    best = checkpoint.read(out / BEST_CHECKPOINT)
    assert best.step == max(means, key=lambda step: (means[step], -step))
    assert best.note["label"] == "best of the evaluations during training"
    assert best.note["evaluation"]["mean_return"] == pytest.approx(max(means.values()))
    with pytest.raises(ValueError, match="only acts; there is nothing to resume"):
        resume(out / BEST_CHECKPOINT)


def test_evaluation_does_not_change_training(cartpole: str, tmp_path: Path) -> None:
    train(DecisionAgent, SMALL, config_for(cartpole), tmp_path / "without")
    often = config_for(cartpole, evaluate_every=3, evaluate_episodes=2, log_every=7, checkpoint_every=4)
    train(DecisionAgent, SMALL, often, tmp_path / "with")
    assert_same_weights(weights_of(tmp_path / "without"), weights_of(tmp_path / "with"))


def test_the_seed_decides(cartpole: str, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(DecisionAgent, SMALL, config_for(cartpole, steps=5, seed=seed), tmp_path / name)
    assert_same_weights(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    other = weights_of(tmp_path / "c")
    assert not torch.equal(weights_of(tmp_path / "a")["head.linear.weight"], other["head.linear.weight"])


@pytest.mark.parametrize("agent", ["decision", "clone"])
def test_the_config_in_the_folder_repeats_the_run(agent: str, cartpole: str, tmp_path: Path) -> None:
    flags = ["--data", cartpole, "--steps", 8, "--seed", 5, "--evaluate-every", 0, "--learning-rate", 3e-3]
    flags += [*TINY, "--cell", "mingru", "--cell-options", "candidate=tanh", "--context", 10, "--log-every", 4]
    assert main(["train", agent, *map(str, flags), "--out", str(tmp_path / "a")]) == 0
    again = ["train", agent, "--config", str(tmp_path / "a/config.toml"), "--out", str(tmp_path / "b")]
    assert main(again) == 0
    assert_same_weights(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    assert (tmp_path / "a/config.toml").read_text() == (tmp_path / "b/config.toml").read_text()
    assert checkpoint.read(tmp_path / "b").config["cell_options"] == {"candidate": "tanh"}


def test_the_learning_rate_in_closed_form(cartpole: str, tmp_path: Path) -> None:
    schedule = Schedule(peak=0.4, steps=100, warmup=0.1, decay="cosine")
    assert [schedule.at(step) for step in (0, 4, 9)] == pytest.approx([0.04, 0.2, 0.4])
    assert [schedule.at(step) for step in (10, 55, 100, 200)] == pytest.approx([0.4, 0.2, 0.0, 0.0], abs=1e-12)
    assert schedule.at(40) == pytest.approx(0.2 * (1 + math.cos(math.pi / 3)))
    constant = Schedule(peak=0.4, steps=100, warmup=0.1, decay="constant")
    assert [constant.at(step) for step in (4, 50, 99)] == pytest.approx([0.2, 0.4, 0.4])
    assert Schedule(peak=0.4, steps=100, warmup=0.0, decay="constant").at(0) == 0.4
    # The log has the optimizer's learning rate.
    config = config_for(cartpole, steps=20, log_every=5, learning_rate=1e-3, warmup=0.5)
    train(DecisionAgent, SMALL, config, tmp_path / "run")
    used = [row["train/learning_rate"] for row in read_log(tmp_path / "run")]
    assert used == pytest.approx([Schedule(1e-3, 20, 0.5, "cosine").at(step) for step in (4, 9, 14, 19)])


def test_averaged_weights(cartpole: str, tmp_path: Path) -> None:
    """Average the weights after each step, those k steps ago weighed by d ** k; they act, the plain ones train on.

    No initial weight is left in the average.
    """
    plain = []
    for steps in range(1, 4):
        config = config_for(cartpole, steps=steps, decay="constant", warmup=0.0)
        train(DecisionAgent, SMALL, config, tmp_path / f"{steps}")
        plain.append(weights_of(tmp_path / f"{steps}"))
    config = config_for(cartpole, steps=3, decay="constant", warmup=0.0, average=0.75)
    result = train(DecisionAgent, SMALL, config, tmp_path / "averaged")
    saved = checkpoint.read(tmp_path / "averaged")
    for name, parameter in result.agent.named_parameters():
        first, second, third = (weights[name].double() for weights in plain)
        wanted = (0.5625 * first + 0.75 * second + third) / (0.5625 + 0.75 + 1)
        assert torch.allclose(saved.weights[name].double(), wanted, atol=1e-6), name
        assert torch.equal(parameter, saved.weights[name])
        assert torch.equal(saved.training["optimizer"]["weights"][name], plain[-1][name])


def test_an_average_over_a_long_run_is_that_of_numpy() -> None:
    """Average 1000 steps at 0.999 of one weight that moves 1 a step, and compare with numpy's mean in float64."""
    average = torch.full((1,), 123.0, dtype=torch.float64)
    for step in range(1000):
        average.lerp_(torch.full_like(average, step + 1.0), newest_share(0.999, step))
    wanted = np.average(np.arange(1, 1001), weights=0.999 ** np.arange(999, -1, -1.0))
    assert average.item() == pytest.approx(wanted, rel=1e-12)


def test_an_older_average_is_not_resumed(cartpole: str, tmp_path: Path) -> None:
    train(DecisionAgent, SMALL, config_for(cartpole, steps=2, average=0.9), tmp_path / "run")
    path = tmp_path / "run" / LAST_CHECKPOINT
    saved = torch.load(path, weights_only=True)
    del saved["training"]["optimizer"]["averaged_without_initial"]
    torch.save(saved, path)
    with pytest.raises(ValueError, match=r"averaged weights were saved by an older version .* start a new run"):
        resume(tmp_path / "run")


def test_half_precision_trains(cartpole: str, tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        train(DecisionAgent, SMALL, config_for(cartpole, precision=precision), tmp_path / precision)
        losses[precision] = [row["train/loss"] for row in read_log(tmp_path / precision)]
        assert {value.dtype for value in weights_of(tmp_path / precision).values()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def test_a_loss_that_is_not_finite(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = ["--learning-rate", "1e30", "--clip", "1e30", "--steps", 60, "--log-every", 7, "--checkpoint-every", 1]
    code = main(["train", "decision", "--data", cartpole, *map(str, [*flags, *TINY]), "--out", str(out)])
    assert code == 1
    error = capsys.readouterr().err
    last = [line for line in error.splitlines() if "minrl:" in line][-1]
    assert last.startswith("minrl: the loss or its gradient is not finite")
    assert "Traceback" not in error
    kept = checkpoint.read(out)
    assert 0 <= kept.step < 60
    losses = kept.training["window"]["losses"]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite, got nan"),
        ({"weight_decay": float("nan")}, "weight_decay must be finite, got nan"),
        ({"warmup": 1.0}, r"warmup must lie in \[0, 1\), got 1.0"),
        ({"average": 1.5}, r"average must lie in \[0, 1\), got 1.5"),
    ],
)
def test_impossible_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_for("minari:x-v0", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ""}, "no data set: give --data"),
        ({"device": "gpu"}, 'unknown device "gpu"; choose cpu, cuda or auto'),
        ({"device": "meta"}, 'device "meta" is not supported'),
    ],
)
def test_unavailable_settings_are_refused(options: dict[str, Any], message: str, cartpole: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(DecisionAgent, SMALL, config_for(**{"data": cartpole} | options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(cartpole: str, tmp_path: Path) -> None:
    train(DecisionAgent, SMALL, config_for(cartpole, steps=2), tmp_path / "run")
    before = (tmp_path / "run/checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="already holds a run: resume it with --resume"):
        train(DecisionAgent, SMALL, config_for(cartpole, steps=2), tmp_path / "run")
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == before


@pytest.mark.slow
def test_two_processes_are_one_with_the_double_batch(cartpole: str, tmp_path: Path) -> None:
    flags = ["--data", cartpole, "--steps", 12, "--dropout", 0, "--log-every", 1, "--width", 16, "--depth", 1]
    flags += ["--length", 32, "--threads", 1, "--evaluate-every", 6, "--evaluate-episodes", 2]
    one = minrl("train", "decision", *flags, "--batch-size", 4, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "minrl.agents", "train", "decision", *map(str, flags), "--batch-size", "2"]
    two = subprocess.run([*command, "--out", str(tmp_path / "two")], capture_output=True, text=True, check=False)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("time per training step") == 1
    losses = [[row["train/loss"] for row in read_log(tmp_path / run) if "train/loss" in row] for run in ("one", "two")]
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, value in weights_of(tmp_path / "one").items():
        assert torch.allclose(weights_of(tmp_path / "two")[name], value, atol=1e-5), name
