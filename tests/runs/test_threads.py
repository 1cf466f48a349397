"""Threads: one for small models, torch's choice for large ones, and waiting threads that leave their cores alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.runs import checkpoint, threads
from minrl.runs.folder import SUMMARY
from minrl.runs.threads import LARGE, use_threads

__all__ = ["cartpole", "own_folders"]


@pytest.fixture(autouse=True)
def torchs_choice() -> Iterator[None]:
    """Simulate a machine on which torch takes three threads, whatever earlier tests chose."""
    torch.set_num_threads(3)
    threads._Choice.chosen = None
    yield
    torch.set_num_threads(1)
    threads._Choice.chosen = None


def linear(parameters: int) -> nn.Module:
    return nn.Linear(1, parameters, bias=False)


def test_the_rule_by_size() -> None:
    assert use_threads(0, linear(1000), 4000) == torch.get_num_threads() == 1
    assert use_threads(0, linear(100_000), int(LARGE / 100_000)) == torch.get_num_threads() == 3
    assert use_threads(0, linear(100_000), int(LARGE / 100_000) - 1) == 1
    assert use_threads(0) == 1


@pytest.mark.parametrize(("side", "threads"), [(7, 1), (84, 3)])
def test_large_images_get_several_threads(side: int, threads: int) -> None:
    """Try batches of 128 of MiniGrid (7 x 7 x 3, two small convolutions) and Atari (84 x 84 x 4, NatureCNN)."""
    small = nn.Sequential(nn.Conv2d(3, 16, 2), nn.Conv2d(16, 32, 2), nn.Linear(512, 64))
    nature = nn.Sequential(nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3), nn.Linear(3136, 512))
    model = small if side == 7 else nature
    assert use_threads(0, model, 128, places=side * side * (3 if side == 7 else 4)) == threads


def test_a_given_number_of_threads_is_used() -> None:
    assert use_threads(2, linear(10)) == torch.get_num_threads() == 2
    assert use_threads(1, linear(100_000), int(LARGE)) == 1
    # A number that the program sets in between holds for large models.
    torch.set_num_threads(4)
    assert use_threads(0, linear(100_000), int(LARGE)) == 4


def test_a_run_goes_on_with_the_threads_that_it_was_begun_with(
    cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "LARGE", 1.0)  # so that torch's own number is taken
    out = tmp_path / "run"
    words = [*SMALL["decision"], "--data", cartpole, "--evaluate-every", "0", "--steps", "3", "--out", str(out)]
    assert main(words) == 0
    assert checkpoint.read(out).training["threads"] == 3
    torch.set_num_threads(1)  # as on another machine
    capsys.readouterr()
    assert main(["train", "--resume", str(out), "--steps", "5"]) == 0
    assert "minrl: 3 CPU threads, as before" in capsys.readouterr().out.splitlines()
    assert torch.get_num_threads() == 3


FLAGS = ["--steps", "64", "--evaluate-every", "0"]
SMALL = {
    "decision": ["train", "decision", "--width", "16", "--depth", "1", "--batch-size", "2", "--length", "32"],
    "ppo": ["train", "ppo", "--env", "CartPole-v1", "--width", "16", "--depth", "1", "--n-steps", "8", "--n-envs", "2",
            "--batch-size", "16", "--n-epochs", "1"],
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_a_run_reports_its_threads(
    kind: str, cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", cartpole, "--steps", "3", "--evaluate-every", "0"] if kind == "decision" else FLAGS
    assert main([*SMALL[kind], *data, "--out", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr()
    assert "minrl: 1 CPU thread, by the model's size (--threads N for others)" in shown.out.splitlines()
    assert "CPU threads" in shown.out
    assert '"threads": 1,' in (tmp_path / "a" / SUMMARY).read_text()
    assert main([*SMALL[kind], *data, "--threads", "2", "--out", str(tmp_path / "b")]) == 0
    assert "minrl: 2 CPU threads" in capsys.readouterr().out.splitlines()
    assert '"threads": 2,' in (tmp_path / "b" / SUMMARY).read_text()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("own", [None, pytest.param("ACTIVE", marks=pytest.mark.slow)])
def test_openmp_waits_passively_by_the_time_torch_is_loaded(own: str | None) -> None:
    """Read what GNU's OpenMP reports as the command line loads torch; a user's own setting stays."""
    if "libgomp" not in loaded_libraries():
        pytest.fail("torch's OpenMP is not GNU's here: say how that one waits, and test it")
    environment: dict[str, Any] = {
        k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", "OMP_NUM_THREADS": "2"} | ({"OMP_WAIT_POLICY": own} if own else {})
    command = [sys.executable, "-m", "minrl.agents", "evaluate", "--help"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    (turns,) = (line.split("'")[1] for line in said.splitlines() if "GOMP_SPINCOUNT" in line)
    assert (turns == "0") == (own is None)


def loaded_libraries() -> str:
    """Return the memory map of this process, which has loaded torch."""
    return Path("/proc/self/maps").read_text(encoding="utf-8")
