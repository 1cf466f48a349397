"""A comparison in one process: finished runs are skipped, interrupted ones resumed, failures reported."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from comparisons import assert_same, both, evaluation, grid, runs, state
from forked import cut_off_at
from gymnasium import spaces
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.compare.run.progress import last_step
from minrl.kernels.matmul import library
from minrl.runs import checkpoint
from minrl.runs.log import STEP
from minrl.system.lock import folder_lock

__all__ = ["cartpole", "own_folders"]


def test_runs_are_normal_runs_and_done_once(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = grid(tmp_path, both(cartpole, seeds=2)), tmp_path / "out"
    assert main(["compare", str(path), "--out", str(out)]) == 0
    assert runs(out) == [f"{task}/mingru/seed_{seed}" for task in ("data", "world") for seed in (0, 1)]
    said = capsys.readouterr()
    assert "methods x tasks x seeds = 1 x 2 x 2, 0 done, 4 to do" in said.out
    assert [line.split()[0] for line in said.out.splitlines() if line.startswith("[")] == [
        f"[{n}/4]" for n in range(1, 5)
    ]
    assert "n_updates" not in said.out
    run = out / "runs/data/mingru/seed_1"
    names = {"config.toml", "checkpoint.pt", "best.pt", "progress.csv", "summary.json", "log.txt"}
    assert names <= {file.name for file in run.iterdir()}
    assert "n_updates" in (run / "log.txt").read_text()
    # The same as `minrl train` from the run's own config.
    assert main(["train", "decision", "--config", str(run / "config.toml"), "--out", str(tmp_path / "alone")]) == 0
    assert evaluation(tmp_path / "alone") == evaluation(run)
    capsys.readouterr()
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    assert main(["compare", str(path), "--out", str(out)]) == 0
    assert "4 done, 0 to do" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before
    # One more seed is one more run of each task; the others stay.
    assert main(["compare", str(path), "--out", str(out), "--seeds", "3", "--dry-run"]) == 0
    assert "4 done, 2 to do" in capsys.readouterr().out


def test_kill_9_and_the_same_command_again(cartpole: str, tmp_path: Path) -> None:
    """Repeat it after a kill in either run, on a data set and in an environment: the report is the same."""
    path = grid(tmp_path, both(cartpole), steps=60, every=10, online_steps=1280)
    assert main(["compare", str(path), "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "killed"
    for name in ("data", "world"):
        done = cut_off_at(5, signal.SIGKILL, "compare", path, "--out", out, part=name)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert f"{name}/mingru/seed_0" not in runs(out)
        assert checkpoint.read(out / f"runs/{name}/mingru/seed_0").step > 0
    assert main(["compare", str(path), "--out", str(out)]) == 0
    assert_same(tmp_path / "whole", out)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_stops(number: signal.Signals, cartpole: str, tmp_path: Path) -> None:
    path, out = grid(tmp_path, both(cartpole), steps=4000, every=100), tmp_path / "out"
    done = cut_off_at(30, number, "compare", path, "--out", out)
    assert done.returncode == 128 + number, done.stderr
    assert done.stdout.splitlines()[-1].startswith("stopped, running work is saved; the same command resumes")
    assert "Traceback" not in done.stderr
    assert 0 < checkpoint.read(out / "runs/data/mingru/seed_0").step < 4000
    assert runs(out) == []


def test_a_changed_grid(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = f'cells = ["mingru"]\nseeds = 2\n[tasks.t]\ndata = "{cartpole}"', tmp_path / "out"
    command = ["compare", str(grid(tmp_path, text)), "--out", str(out)]
    assert main(command) == 0
    assert main(["compare", str(grid(tmp_path, text, steps=25)), *command[2:]]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "runs/t/mingru/seed_0 holds a run with other settings (steps = 20, now 25, and 1 more): choose" in said
    assert checkpoint.read(out / "runs/t/mingru/seed_0").step == 20
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("has other settings (steps = 20, now 25): another --out, or --redo\n") == 2
    assert main([*command, "--redo"]) == 0
    assert checkpoint.read(out / "runs/t/mingru/seed_1").step == 25
    grid(tmp_path, f"{text}\n[methods.mingru.offline]\nagent = 'clone'")
    assert main(command) == 2
    assert "(agent = decision, now clone, and 1 more)" in capsys.readouterr().err
    # Older runs record an unset switch as off.
    grid(tmp_path, text, steps=25)
    config = out / "runs/t/mingru/seed_0/config.toml"
    begun = config.read_text().partition("# crc32")[0]  # an edited file has no checksum
    assert "refeed" not in begun
    config.write_text(begun.replace("[decision]\n", "[decision]\nrefeed = false\n"))
    assert main([*command, "--dry-run"]) == main(command) == 0
    config.write_text(begun.replace("[decision]\n", "[decision]\ntarget_return = 0.0\n"))
    for weights in ("there", "gone"):  # a finished run may have come without its weights
        assert main(command) == 2
        assert "target_return = 0.0, now None" in capsys.readouterr().err, weights
        (out / "runs/t/mingru/seed_0/checkpoint.pt").unlink(missing_ok=True)
    config.write_text(begun)
    assert main(command) == 0
    assert "2 done, 0 to do" in capsys.readouterr().out


def test_all_processes_of_a_comparison_use_one_matmul_library(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the library that it was begun with, whatever a later process would choose."""
    text = f'cells = ["mingru"]\nseeds = 1\n[tasks.t]\ndata = "{cartpole}"'
    begun = {}
    for name in ("torch", "onednn"):
        monkeypatch.setenv("MINRL_MATMUL", name)
        command = ["compare", str(grid(tmp_path, text)), "--out", str(tmp_path / name)]
        assert main(command) == 0
        assert os.environ["MINRL_MATMUL"] == name
        begun[name] = library()
        monkeypatch.setenv("MINRL_MATMUL", "onednn" if name == "torch" else "torch")
        assert main(command) == 2
        assert f"was started with MINRL_MATMUL={begun[name]} and keeps it" in capsys.readouterr().err
        monkeypatch.delenv("MINRL_MATMUL")
        run = tmp_path / name / "runs/t/mingru/seed_0"
        whole = checkpoint.read(run).weights
        shutil.rmtree(run)
        assert main(command) == 0
        again = checkpoint.read(run).weights
        assert [key for key in whole if not torch.equal(whole[key], again[key])] == []
        assert "MINRL_MATMUL" not in os.environ


class Flaky(gymnasium.Env[Any, Any]):
    """Environment whose reset fails while its file exists; with `once` the first failure deletes it."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, file: str, once: bool) -> None:
        self.file, self.once = Path(file), once

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.file.exists():
            if self.once:
                self.file.unlink()
            raise RuntimeError("the simulator has crashed")
        return self.observation_space.low.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.low.copy(), 1.0, bool(self.np_random.random() < 0.2), False, {}


@pytest.fixture
def flaky() -> Iterator[str]:
    gymnasium.register("Flaky-v0", Flaky)
    yield "Flaky-v0"
    del gymnasium.registry["Flaky-v0"]


@pytest.mark.parametrize("once", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_failed_run_is_tried_once_more_and_reported(
    once: bool, flaky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "broken", tmp_path / "out"
    file.touch()
    kwargs = f'{{ file = "{file}", once = {str(once).lower()} }}'
    text = f"""
cells = ["mingru"]
seeds = 1
[tasks.flaky]
env = "{flaky}"
train = {{ env_kwargs = {kwargs} }}
[tasks.good]
env = "CartPole-v1"
"""
    # A grid that names a file.
    command = ["compare", str(grid(tmp_path, text)), "--trust", "--out", str(out)]
    assert main(command) == (0 if once else 1)
    said = capsys.readouterr()
    assert "runs/flaky/mingru/seed_0 failed and will be retried: RuntimeError: the simulator has crashed" in said.out
    log = (out / "runs/flaky/mingru/seed_0/log.txt").read_text()
    assert log.count("Traceback") == (1 if once else 2)
    assert "good/mingru/seed_0" in runs(out)
    if once:
        assert len(runs(out)) == 2
        assert state(out) == {}
        return
    assert "failed: runs/flaky/mingru/seed_0: RuntimeError: the simulator has crashed (see its log.txt)" in said.err
    failed = {"state": "failed", "reason": "RuntimeError: the simulator has crashed"}
    assert state(out) == {"runs/flaky/mingru/seed_0": failed}
    assert "the simulator has crashed" in (out / "report/report.md").read_text()
    assert main([*command, "--tasks", "good"]) == 0
    assert state(out) == {"runs/flaky/mingru/seed_0": failed}
    file.unlink()
    assert main(command) == 0
    assert (len(runs(out)), state(out)) == (2, {})


def test_missing_data_are_skipped_and_named(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = """
cells = ["mingru"]
seeds = 1
[tasks.gone]
data = "d4rl:hopper-medium-v2"
[tasks.unknown]
env = "NoSuchWorld-v0"
"""
    out = tmp_path / "out"
    command = ["compare", str(grid(tmp_path, text)), "--out", str(out)]
    assert main(command) == 2
    assert "nothing to compare: no data set or environment of the grid is available here" in capsys.readouterr().err
    grid(tmp_path, f'{text}\n[tasks.here]\ndata = "{cartpole}"')
    assert main(command) == 0
    said = capsys.readouterr()
    assert "skipped: d4rl:hopper-medium-v2 needs hopper_medium-v2.hdf5" in said.err
    assert "skipped: environment NoSuchWorld-v0 cannot be made" in said.err
    assert runs(out) == ["here/mingru/seed_0"]
    assert {key: value["state"] for key, value in state(out).items()} == {
        "runs/gone/mingru/seed_0": "skipped",
        "runs/unknown/mingru/seed_0": "skipped",
    }
    report = (out / "report/report.md").read_text()
    assert "hopper-medium-v2" in report
    assert "NoSuchWorld-v0" in report


def test_a_method_that_does_not_fit_is_found_before_anything_runs(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"""
cells = ["mingru"]
seeds = 1
[methods.odd.offline.decision]
cell_options = {{ expnd = 2 }}
[tasks.t]
data = "{cartpole}"
"""
    out = tmp_path / "out"
    assert main(["compare", str(grid(tmp_path, text)), "--out", str(out)]) == 2
    assert "method odd on task t: cell 'mingru' has no option" in capsys.readouterr().err
    assert not (out / "runs").exists()


def test_one_comparison_at_a_time_in_a_folder(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = grid(tmp_path, f'cells = ["mingru"]\n[tasks.t]\ndata = "{cartpole}"'), tmp_path / "out"
    with folder_lock(out), ThreadPoolExecutor(1) as other:
        assert other.submit(main, ["compare", str(path), "--out", str(out)]).result() == 2
    assert f"another process is at work in {out} (process {os.getpid()} on" in capsys.readouterr().err


def test_the_last_step_of_a_log_that_is_being_written(tmp_path: Path) -> None:
    log = tmp_path / "progress.csv"
    assert last_step(log, STEP) == 0
    log.write_text(f"train/loss,{STEP}\n" + "".join(f"0.5,{n}\n" for n in range(2000)) + "0.25,200")
    assert last_step(log, STEP) == 1999
    log.write_text(f"train/loss,{STEP}\n")
    assert last_step(log, STEP) == 0
