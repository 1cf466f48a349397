"""The README's examples run as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("minrl ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that the examples speak of, trained in a few steps by the README's own command."""
    folder = tmp_path_factory.mktemp("readme")
    train = next(command for command in COMMANDS if command.startswith("minrl train decision"))
    short = ["--steps", "3", "--width", "16", "--depth", "1", "--length", "64", "--evaluate-episodes", "1"]
    run([*shlex.split(train), *short, "--threads", "1"], folder)
    run(shlex.split(next(command for command in COMMANDS if command.startswith("minrl export"))), folder)
    return folder


def run(command: list[str], folder: Path) -> None:
    """Run a command of the README in `folder`; its output is shown where it fails."""
    arguments = [sys.executable, "-m", "minrl.agents", *command[1:]]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_something_to_run() -> None:
    assert len(PYTHON) == 5
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("code", PYTHON, ids=["acting", "backbone", "onnx", "ppo", "cell"])
def test_python_examples(code: str, place: Path) -> None:
    pytest.importorskip("mujoco")
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# These have tests of their own: they train, serve until Ctrl-C, or take minutes.
APART = tuple(f"minrl {name}" for name in ("train", "export", "dashboard", "compare", "reproduce"))


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(APART)])
def test_commands(command: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if command.startswith("minrl collect"):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    if command.startswith("minrl evaluate"):
        command = command.replace("--episodes 20", "--episodes 1")
    run(shlex.split(command), place)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("minrl train ppo")])
def test_training_online(command: str, tmp_path: Path) -> None:
    words = shlex.split(command.replace("configs/", f"{ROOT}/configs/"))
    short = ["--steps", "64", "--n-steps", "16", "--n-envs", "2", "--evaluate-episodes", "1", "--threads", "1"]
    run([*words, *short], tmp_path)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("minrl compare")])
def test_comparisons(command: str, tmp_path: Path) -> None:
    run([*shlex.split(command.replace("configs/", f"{ROOT}/configs/")), "--dry-run"], tmp_path)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("minrl reproduce")])
def test_experiments(command: str, tmp_path: Path) -> None:
    """They are there; tests of their own run them."""
    run([*shlex.split(command), "--help"], tmp_path)


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_make_knows_the_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
