"""Target sweeps, videos and training seconds of a run."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from worlds import cartpole, own_folders

import minrl
from minrl.agent import Actor
from minrl.agents.__main__ import main
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data import load
from minrl.evaluate import evaluate
from minrl.runs.folder import TARGETS, TARGETS_PLOT
from minrl.runs.log import STEP, read_log
from minrl.runs.side_files import read_targets
from minrl.system.digests import checked
from minrl.training.offline import RunResult, TrainConfig, resume, train
from minrl.training.report import write_report
from minrl.training.target_sweep import curve_names, spread_targets

__all__ = ["cartpole", "own_folders"]


def run(data: str, out: Path, **settings: Any) -> RunResult:
    defaults = {"steps": 20, "batch_size": 2, "length": 32, "log_every": 5, "threads": 1}
    defaults |= {"evaluate_every": 10, "evaluate_episodes": 3}
    return train(DecisionAgent, DecisionConfig(width=8, depth=1), TrainConfig(data=data, **defaults | settings), out)


def test_targets_are_spread_over_the_data() -> None:
    returns = np.array([30.0, -10.0, 3.0, 10.0])
    assert spread_targets(returns) == [-10.0, 0.0, 10.0, 20.0, 30.0]
    assert spread_targets(np.array([1.23456e4, 2.0])) == pytest.approx([2.0, 3087.9, 6173.8, 9259.7, 12345.6])
    assert spread_targets(np.array([7.0, 7.0])) == [7.0]


@pytest.mark.parametrize(
    ("worst", "best"), [(999_992.0, 1_000_007.0), (1e-9, 3e-9), (-123456.75, -123456.5), (0.1, 0.7), (-5e7, 5e7 + 1)]
)
def test_targets_span_the_data_and_have_distinct_curves(worst: float, best: float) -> None:
    """Compare quarters of the range with exact fractions."""
    asked = spread_targets(np.array([best, worst]))
    assert (asked[0], asked[-1], len(asked), len(set(curve_names(asked)))) == (worst, best, 5, 5)
    exact = [Fraction(worst) + (Fraction(best) - Fraction(worst)) * i / 4 for i in range(5)]
    assert max(abs(Fraction(a) - e) for a, e in zip(asked, exact, strict=True)) <= Fraction(np.spacing(abs(best)) * 2)


def test_curves_keep_short_names_where_these_tell_targets_apart() -> None:
    assert curve_names([20.5, -3.0]) == ["eval/target_20.5_mean_reward", "eval/target_-3_mean_reward"]
    assert curve_names([1234567.0, 2.0]) == ["eval/target_1.23457e+06_mean_reward", "eval/target_2_mean_reward"]


@pytest.mark.plots
def test_several_targets_are_evaluated_at_the_end(cartpole: str, tmp_path: Path) -> None:
    """Compare the file with an evaluation of the saved agent."""
    run(cartpole, tmp_path / "run")
    written = checked(json.loads((tmp_path / "run" / TARGETS).read_text()))
    asked = spread_targets(load(cartpole).returns)
    assert [(row["step"], row["target_return"]) for row in written] == [(20, target) for target in asked]
    agent = minrl.load(tmp_path / "run")
    assert isinstance(agent, Actor)
    for row, result in zip(written, evaluate(agent, episodes=3, targets=asked), strict=True):
        assert row == {"step": 20} | result.to_dict()
    assert not any("target" in name for row in read_log(tmp_path / "run") for name in row)
    with Image.open(tmp_path / "run" / TARGETS_PLOT) as plot:
        assert plot.size == (480, 400)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    for name, row in zip(curve_names(asked), written, strict=True):
        (point,) = events.Scalars(name)
        assert (point.step, point.value) == (20, pytest.approx(row["mean_return"]))
    (picture,) = events.Images("eval/targets")
    assert picture.encoded_image_string == (tmp_path / "run" / TARGETS_PLOT).read_bytes()


@pytest.mark.parametrize(("sweep", "steps"), [("all", [10, 20]), ("last", [20]), ("none", [])])
def test_steps_of_the_sweep(sweep: str, steps: list[int], cartpole: str, tmp_path: Path) -> None:
    run(cartpole, tmp_path / "run", target_sweep=sweep)
    rows = read_targets(tmp_path / "run")
    assert sorted({row["step"] for row in rows}) == steps
    # Resumed at its end, where it is evaluated again.
    resume(tmp_path / "run")
    assert read_targets(tmp_path / "run") == rows


def test_a_sweep_does_not_change_training(cartpole: str, tmp_path: Path) -> None:
    logs = []
    for sweep in ("none", "all"):
        run(cartpole, tmp_path / sweep, target_sweep=sweep)
        logs.append([{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_log(tmp_path / sweep)])
    assert logs[0] == logs[1]


def test_an_agent_without_a_target_has_no_sweep(cartpole: str, tmp_path: Path) -> None:
    config = TrainConfig(data=cartpole, steps=4, batch_size=2, length=16, threads=1, evaluate_episodes=1)
    train(CloneAgent, CloneConfig(width=8, depth=1), config, tmp_path / "run")
    assert not (tmp_path / "run" / TARGETS).exists()


def test_a_video_of_each_evaluation(cartpole: str, tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    run(cartpole, tmp_path / "run", video=True, target_sweep="none")
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in events.Images("eval/episode")] == [10, 20]
    for event in events.Images("eval/episode"):
        file = tmp_path / f"run/videos/step_{event.step}.gif"
        assert event.encoded_image_string == file.read_bytes()
        with Image.open(file) as film:
            assert (film.format, film.size) == ("GIF", (320, 213))
            assert film.n_frames > 1


def test_video_without_evaluations_is_refused(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="video records evaluations: it needs evaluate_every above 0"):
        TrainConfig(data=cartpole, video=True, evaluate_every=0)
    with h5py.File(tmp_path / "flat.hdf5", "w") as file:
        for name, width in (("observations", (20, 2)), ("actions", (20, 1)), ("rewards", (20,))):
            file[name] = np.zeros(width, np.float32)
        for name in ("terminals", "timeouts"):
            file[name] = np.arange(20) % 10 == 9
    flags = ["--data", f"hdf5:{tmp_path / 'flat.hdf5'}", "--video", "--steps", "2"]
    assert main(["train", "decision", *flags, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "names no environment, so there is nothing to record" in error
    assert error.count("\n") == 1


def test_seconds_of_training_exclude_evaluations(cartpole: str, tmp_path: Path) -> None:
    """Add them up over interruptions, in every row of the log."""
    out = tmp_path / "run"
    result = run(cartpole, out, evaluate_every=5, evaluate_episodes=20)
    rows = read_log(out)
    elapsed = [row["time/time_elapsed"] for row in rows]
    assert elapsed == sorted(elapsed)
    assert [row[STEP] for row in rows] == [step for step in (5, 10, 15, 20) for _ in range(2)]
    assert elapsed[-1] == pytest.approx(result.seconds, abs=0.006)
    again = resume(out)
    assert again.seconds == result.seconds
    write_report(again, out)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["training_seconds"] == result.seconds
    assert summary["training_cpu_seconds"] == result.cpu_seconds
    assert summary["seconds_per_training_step"] == result.seconds / 20
    assert "peak_memory_bytes" not in summary
