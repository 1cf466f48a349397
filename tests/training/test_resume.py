"""Resuming interrupted offline runs, to the bit."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import cut_off_at, cut_off_when
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.runs import checkpoint
from minrl.runs.folder import BEST_CHECKPOINT, LAST_CHECKPOINT
from minrl.runs.log import read_log
from minrl.training import long_steps
from minrl.training.offline import RunResult, TrainConfig, resume, train

__all__ = ["cartpole", "own_folders"]

AGENT = DecisionConfig(width=16, depth=1)  # with dropout
# Checkpoints fall between two rows of the log and between two evaluations.
SETTINGS: dict[str, Any] = {
    "steps": 160,
    "batch_size": 2,
    "length": 24,
    "log_every": 20,
    "checkpoint_every": 33,
    "evaluate_every": 50,
    "evaluate_episodes": 3,
    "average": 0.9,
    "threads": 1,
}


def words(cartpole: str, out: Path, **settings: Any) -> list[str]:
    """Return the command line of the run."""
    flags = ["--width", "16", "--depth", "1", "--data", cartpole, "--out", str(out)]
    for name, value in (SETTINGS | settings).items():
        flags += [f"--{name.replace('_', '-')}", str(value)]
    return ["train", "decision", *flags]


def rows(run: Path) -> list[dict[str, float]]:
    """Return the log without times."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_log(run)]


def assert_same_run(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    for name in (LAST_CHECKPOINT, BEST_CHECKPOINT):
        if not (a / name).exists():
            continue
        one, other = checkpoint.read(a / name), checkpoint.read(b / name)
        assert one.step == other.step
        assert [n for n in one.weights if not torch.equal(one.weights[n], other.weights[n])] == []
    last = [checkpoint.read(run).training["optimizer"]["weights"] for run in (a, b)]
    assert [n for n in last[0] if not torch.equal(last[0][n], last[1][n])] == []


def whole(cartpole: str, out: Path, **settings: Any) -> RunResult:
    return train(DecisionAgent, AGENT, TrainConfig(data=cartpole, **SETTINGS | settings), out)


def test_after_kill_9(cartpole: str, tmp_path: Path) -> None:
    done = whole(cartpole, tmp_path / "whole")
    out = tmp_path / "killed"
    killed = cut_off_at(6, signal.SIGKILL, *words(cartpole, out))
    assert killed.returncode == -signal.SIGKILL
    assert 0 < checkpoint.read(out).step < 160
    with (out / "progress.csv").open("a") as log:
        log.write("0.1,2")  # a row that the kill cut in half
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(tmp_path / "whole", out)
    # The curves show each step once, whatever the killed process had written.
    events = EventAccumulator(str(out)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(20, 161, 20))
    assert [event.step for event in events.Scalars("eval/mean_reward")] == [50, 100, 150, 160]
    assert done.evaluation is not None
    assert resume(out).evaluation == done.evaluation


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_first(number: signal.Signals, cartpole: str, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    done = cut_off_at(4, number, *words(cartpole, out, checkpoint_every=1000, steps=200))
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    saved = checkpoint.read(out)
    assert 40 <= saved.step < 200
    assert done.stdout.splitlines()[-1] == (
        f"stopped at step {saved.step} and saved; resume it by: minrl train --resume {out}"
    )
    assert main(["train", "--resume", str(out)]) == 0
    whole(cartpole, tmp_path / "whole", checkpoint_every=1000, steps=200)
    assert_same_run(tmp_path / "whole", out)


def test_a_signal_breaks_off_a_long_step(cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop within the gradient of a process's first step and of a later one, and go on from the steps before."""
    settings = {"steps": 12, "log_every": 4, "evaluate_every": 0}
    whole(cartpole, tmp_path / "whole", **settings)
    out, calls, begins = tmp_path / "stopped", 0, DecisionAgent.loss
    monkeypatch.setattr(long_steps, "LONG", 0.0)

    def signalled(self: DecisionAgent, *values: Any) -> Any:
        nonlocal calls
        calls += 1
        loss = begins(self, *values)
        if calls in (1, 7):
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the step was not broken off")
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(DecisionAgent, "loss", signalled)
        assert main(words(cartpole, out, **settings)) == 128 + signal.SIGTERM
        assert checkpoint.read(out).step == 0
        assert main(["train", "--resume", str(out)]) == 128 + signal.SIGTERM
        assert checkpoint.read(out).step == 5
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.parametrize(
    "last", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["in the middle", "at the end"]
)
def test_a_signal_during_an_evaluation(last: bool, cartpole: str, tmp_path: Path) -> None:
    """Cancel it, and evaluate again on resume."""
    settings = {"steps": 40, "evaluate_every": 40 if last else 20, "checkpoint_every": 7, "log_every": 10}
    out = tmp_path / "stopped"
    # Enough episodes for the signal to fall into the evaluation.
    done = cut_off_when(
        lambda: len(read_log(out)) >= (4 if last else 2),
        signal.SIGTERM,
        *words(cartpole, out, **settings | {"evaluate_episodes": 1_000_000}),
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert f"stopped at step {40 if last else 20}" in done.stdout
    saved = checkpoint.read(out)
    assert saved.step == settings["evaluate_every"]
    assert not any("eval/mean_reward" in row for row in read_log(out))
    config = {**saved.training["config"], "evaluate_episodes": 3}
    content = torch.load(out / LAST_CHECKPOINT, weights_only=True)
    content["training"]["config"] = config
    torch.save(content, out / LAST_CHECKPOINT)
    assert main(["train", "--resume", str(out)]) == 0
    whole(cartpole, tmp_path / "whole", **settings)
    assert_same_run(tmp_path / "whole", out)


def test_killed_before_the_first_row(cartpole: str, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    cut_off_at(0, signal.SIGKILL, *words(cartpole, out))
    assert (out / LAST_CHECKPOINT).is_file()
    assert not read_log(out)
    resume(out)
    whole(cartpole, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", out)


def test_from_another_folder(cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find a data set again that was named by a relative path."""
    name = cartpole.removeprefix("minari:")
    monkeypatch.chdir(tmp_path)
    file = Path(os.path.relpath(tmp_path / "minari" / name / "data/main_data.hdf5"))
    train(DecisionAgent, AGENT, TrainConfig(data=f"hdf5:{file}", **SETTINGS | {"steps": 3}), Path("run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume(Path("../run")).step == 3


def test_another_number_of_processes(cartpole: str, tmp_path: Path) -> None:
    whole(cartpole, tmp_path / "run", steps=3)
    content = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    content["training"]["processes"] *= 2
    torch.save(content, tmp_path / "run/checkpoint.pt")
    with pytest.raises(ValueError, match="was trained by 2 processes and resumes with as many; there are 1"):
        resume(tmp_path / "run")


def test_another_data_set_under_the_name(cartpole: str, tmp_path: Path) -> None:
    from minrl.collect.record import collect

    whole(cartpole, tmp_path / "run", steps=3)
    name = cartpole.removeprefix("minari:")
    collect("random", "CartPole-v1", 30, name, seed=7, overwrite=True, progress=False)
    with pytest.raises(ValueError, match=r"is no longer the data set that .*run was trained on"):
        resume(tmp_path / "run")


def test_a_checkpoint_without_a_part(cartpole: str, tmp_path: Path) -> None:
    whole(cartpole, tmp_path / "run", steps=3)
    content = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    for part in ("optimizer", "sampler", "processes", "window", "config"):
        rest = {name: value for name, value in content["training"].items() if name != part}
        torch.save({**content, "training": rest}, tmp_path / "run/checkpoint.pt")
        with pytest.raises(ValueError, match=r"cannot be resumed|nothing to resume") as caught:
            resume(tmp_path / "run")
        assert "\n" not in str(caught.value), part


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(tmp_path / "nothing")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
