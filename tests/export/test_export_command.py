"""`minrl export`: output, refusals, and the example of its help run without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from forked import minrl
from worlds import TINY, cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.agents.cli.export import EXAMPLE
from minrl.export import onnx

__all__ = ["cartpole", "own_folders"]

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def run(cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train a run to its end, in the working folder."""
    monkeypatch.chdir(tmp_path)
    flags = [*map(str, TINY), "--steps", "3", "--evaluate-every", "0", "--data", cartpole, "--out", "run"]
    assert main(["train", "decision", *flags]) == 0
    return Path("run")


ALONE = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "minrl", "stable_baselines3"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Without())
"""


def test_the_example_needs_neither_torch_nor_this_package(run: Path, tmp_path: Path) -> None:
    done = minrl("export", run, "--onnx", "agent.onnx", "--target", 60)
    assert done.returncode == 0, done.stderr
    # On a busy machine the notice about compiling a kernel may come first.
    assert [line for line in done.stderr.splitlines() if not line.startswith("minrl: compiled a CPU kernel")] == []
    check = ["sha256sum", "--check", "--status", "agent.onnx.sha256"]
    assert subprocess.run(check, cwd=tmp_path, check=False).returncode == 0
    damaged = bytearray((tmp_path / "agent.onnx").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    whole = (tmp_path / "agent.onnx").read_bytes()
    (tmp_path / "agent.onnx").write_bytes(damaged)
    assert subprocess.run(check, cwd=tmp_path, check=False).returncode == 1
    (tmp_path / "agent.onnx").write_bytes(whole)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("agent.onnx: agent decision, ")
    assert lines[1].startswith("inputs:  observation (batch, 4), reward (batch), episode_start (batch), state (batch, ")
    assert lines[2].startswith("outputs: action (batch), next_state (batch, ")
    assert "checked: over 1000 steps with onnxruntime" in lines[3]
    assert lines[-1].endswith("minrl export --help")
    assert len(EXAMPLE.splitlines()) == 11
    end = "print('torch' in sys.modules, seen['reward'], state[0, 0], state[0, 2], ends)\n"
    command = [sys.executable, "-c", ALONE + EXAMPLE + end]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch_is_there, reward, target, steps, *ends = done.stdout.split()
    assert (torch_is_there, reward, target) == ("False", "[1.]", "60.0")
    assert float(steps) > 5
    assert "True" in " ".join(ends)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return exit code and the one line on standard error."""
    capsys.readouterr()
    code = main(["export", *words])
    error = capsys.readouterr().err.strip()
    assert error.startswith("minrl: ")
    assert "\n" not in error
    return code, error


def test_mistakes_get_one_line(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in {
        ("run",): "--onnx or --c is missing: minrl export RUN|ZIP --onnx FILE | --c DIR",
        ("none", "--onnx", "a.onnx"): "no checkpoint at none",
        ("run", "--onnx", "none/a.onnx"): "none to write a.onnx to; make it first",
        ("run", "--onnx", "run"): "run is a folder; give the name of a file",
        ("run", "--onnx", "a.onnx", "--opset", "3"): "opset 3 cannot be written, 18 can",
        ("run", "--onnx", "a.onnx", "--target", "nan"): "the target return must be a number, got nan",
    }.items():
        code, error = refused(list(words), capsys)
        assert code == 2
        assert message in error
    for package in ("onnx", "onnxruntime", "onnxscript"):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, package, None)
            code, error = refused(["run", "--onnx", "a.onnx"], capsys)
        hint = "pip install onnx onnxruntime onnxscript"
        assert (code, error) == (2, f"minrl: {package} is missing: {hint} to export an agent")
    monkeypatch.setattr(onnx, "ACTION_TOLERANCE", -1.0)
    code, error = refused(["run", "--onnx", "a.onnx"], capsys)
    assert code == 1
    assert error.endswith("over 1000 steps; a.onnx was not written")
    assert sorted(path.name for path in Path().iterdir() if "onnx" in path.name) == []
