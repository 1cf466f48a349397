"""The lock on a folder: one process and one thread at a time, free after the holder's death."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from ppo_runs import TINY, whole
from worlds import own_folders

from minrl.agents.__main__ import main
from minrl.runs.folder import CONFIG, LAST_CHECKPOINT, run_lock
from minrl.system.lock import NAME, folder_lock

__all__ = ["own_folders"]

HOLD = r"""
import os, sys, time
from pathlib import Path
from minrl.system.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    for child in range(int(sys.argv[2])):
        if os.fork() == 0:
            os.write(1, b"forked\n")
            time.sleep(600)
    os.write(1, b"locked\n")
    time.sleep(600)
"""


def holder(folder: Path, children: int = 0) -> "subprocess.Popen[str]":
    """Start a process in a session of its own that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(folder), str(children)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    said = sorted(process.stdout.readline().strip() for _ in range(1 + children))
    assert said == ["forked"] * children + ["locked"]
    return process


def end(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("children", [0, 2], ids=["alone", "with forked children that outlive it"])
def test_the_lock_of_a_dead_process_is_free(children: int, tmp_path: Path) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"
    process = holder(folder, children)
    try:
        with pytest.raises(ValueError, match=rf"another process is at work in .* \(process {process.pid} on "):  # noqa: SIM117
            with folder_lock(folder):
                pass
        shutil.copytree(folder, moved)
        with folder_lock(moved):
            pass
        process.kill()
        process.wait()
        assert (folder / NAME).exists()
        with folder_lock(folder):
            pass
    finally:
        end(process)


def test_a_thread_takes_its_own_lock_again_and_no_other_does(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"

    def take() -> None:
        with folder_lock(folder):
            pass

    with folder_lock(folder), ThreadPoolExecutor(1) as other:
        take()
        with pytest.raises(ValueError, match="another process is at work"):
            other.submit(take).result()
    # Nothing was written into it.
    assert not (tmp_path / "a").exists()
    folder.mkdir(parents=True)
    take()
    assert list(folder.iterdir()) == []


def test_one_thread_of_a_process_trains(tmp_path: Path) -> None:
    """Refuse a second thread, whose random numbers would be those of the first; let a forked process train."""

    def take(folder: Path) -> None:
        with run_lock(folder):
            pass

    with run_lock(tmp_path / "first"), ThreadPoolExecutor(1) as other:
        take(tmp_path / "second")
        with pytest.raises(ValueError, match="another thread of this process trains"):
            other.submit(take, tmp_path / "third").result()
        child = os.fork()
        if child == 0:
            take(tmp_path / "fourth")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    with ThreadPoolExecutor(1) as other:
        other.submit(take, tmp_path / "third").result()


def test_training_and_resuming_fail_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, new = tmp_path / "run", tmp_path / "new"
    whole(out, steps=32, evaluate_every=0)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    flags = [str(word) for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", value)]
    capsys.readouterr()
    for folder, words in (
        (out, ["--resume", str(out)]),
        (out, ["--resume", str(out / LAST_CHECKPOINT), "--steps", "64"]),
        (new, ["ppo", "--out", str(new), *flags]),
    ):
        process = holder(folder)
        try:
            assert main(["train", *words]) == 2
        finally:
            end(process)
        said = capsys.readouterr().err
        assert said.startswith(f"minrl: another process is at work in {folder} (process {process.pid} on ")
        assert said.count("\n") == 1
    (out / NAME).unlink()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (new / CONFIG).exists()


def test_the_next_holder_removes_drafts(tmp_path: Path) -> None:
    ours = [".checkpoint.pt.1234", ".best.pt.0123456789abcdef.new", ".progress.csv.new", "videos/.step_1.gif.77"]
    others = [".mine.pt.0123456789abcdef.new", ".checkpoint.pt.old", "checkpoint.pt", ".hidden", "videos/step_1.gif"]
    (tmp_path / "videos").mkdir()
    for name in ours + others:
        (tmp_path / name).touch()
    with run_lock(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {NAME} == set(others)
