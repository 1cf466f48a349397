"""Comparisons on a local Ray: results equal those in one process, whatever happens to a worker."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparisons import assert_same, both, grid, runs, state
from forked import Forked, minrl, wait_until
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.agents.cli.families import families
from minrl.compare.grid.read import read_grid
from minrl.compare.run.execute import Outcome
from minrl.compare.run.queue import RunQueue
from minrl.compare.run.ray import sees
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT

pytest.importorskip("ray")
__all__ = ["cartpole", "own_folders"]

ON_RAY = ("--on", "ray", "--workers", "2")


@pytest.fixture(autouse=True)
def _ray_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore signal handlers and set Ray's password, which it would look for in each test's home."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-password-of-the-tests-of-32-letters")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
def test_two_workers_give_the_same_numbers(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = both(cartpole) + '[tasks.gone]\ndata = "d4rl:hopper-medium-v2"\n'
    path = str(grid(tmp_path, text))
    assert main(["compare", path, "--out", str(tmp_path / "here")]) == 0
    capsys.readouterr()
    assert main(["compare", path, "--out", str(tmp_path / "ray"), *ON_RAY]) == 0
    said = capsys.readouterr()
    assert "[2/2]" in said.out
    assert "d4rl:hopper-medium-v2 needs hopper_medium-v2.hdf5" in said.err
    assert_same(tmp_path / "here", tmp_path / "ray")
    logs = [(tmp_path / "ray/runs" / name / "log.txt").read_text() for name in runs(tmp_path / "ray")]
    processes = {line.split("process ")[1].split()[0] for log in logs for line in log.splitlines()[:1]}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert list((tmp_path / "ray").glob(".shared*")) == []


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


@pytest.fixture
def cluster() -> Iterator[str]:
    """Start a cluster of one machine with two CPUs and one pretended GPU; yield its address."""
    client = free_port()
    command = ["ray", "start", "--head", "--block", f"--port={free_port()}", f"--ray-client-server-port={client}"]
    flags = ["--num-cpus=2", "--num-gpus=1", "--include-dashboard=false", "--disable-usage-stats"]
    ray = Path(sys.executable).with_name("ray")
    with subprocess.Popen([ray, *command[1:], *flags], stdout=subprocess.DEVNULL, start_new_session=True) as head:
        while head.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", client), timeout=1):
                break
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{client}"
        os.killpg(head.pid, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_a_cluster_by_its_address(cartpole: str, tmp_path: Path, cluster: str) -> None:
    """Share a GPU between two runs; the cluster's password is found."""
    path = str(grid(tmp_path, both(cartpole)))
    assert main(["compare", path, "--out", str(tmp_path / "here")]) == 0
    flags = ("--on", "ray", "--address", cluster, "--gpus-per-run", "0.5")
    done = minrl("compare", path, "--out", tmp_path / "ray", *flags)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "here", tmp_path / "ray")
    done = minrl("compare", path, "--out", tmp_path / "none", *flags[:-1], "2")
    assert done.returncode == 2
    assert "no machine of the Ray cluster has the 1 CPUs and 2 GPUs of a run" in done.stderr


def process_of(run: Path) -> int:
    """Return the process id of the worker that trains the run."""
    first = (run / "log.txt").read_text().splitlines()[0]
    return int(first.split("process ")[1].split()[0])


@pytest.mark.slow
def test_a_killed_worker_does_not_change_results(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grid(tmp_path, both(cartpole), steps=1500, every=50, online_steps=7680)
    assert main(["compare", str(path), "--out", str(tmp_path / "here")]) == 0
    out = tmp_path / "ray"
    killed, ended = [], threading.Event()

    def kill() -> None:
        for name in ("data", "world"):
            run = out / f"runs/{name}/mingru/seed_0"
            while not (run / LAST_CHECKPOINT).exists() or checkpoint.read(run).step == 0:
                if ended.wait(0.05):
                    return
            if not (run / "summary.json").exists():
                os.kill(process_of(run), signal.SIGKILL)
                killed.append(name)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert main(["compare", str(path), "--out", str(out), *ON_RAY]) == 0
    finally:
        ended.set()
        thread.join()
    assert killed == ["data", "world"]
    assert "its worker died" in capsys.readouterr().out
    logs = [(out / f"runs/{name}/mingru/seed_0/log.txt").read_text() for name in killed]
    assert [log.count(": process ") for log in logs] == [2, 2]
    assert state(out) == {}
    assert_same(tmp_path / "here", out)


@pytest.mark.slow
def test_a_signal_saves_the_workers_runs(cartpole: str, tmp_path: Path) -> None:
    path, out = grid(tmp_path, both(cartpole), steps=20_000, every=5_000), tmp_path / "out"
    process = Forked("compare", path, "--out", out, *ON_RAY)
    run = out / "runs/data/mingru/seed_0"
    log = run / "progress.csv"
    wait_until(lambda: log.exists() and log.read_text().count("\n") >= 10, process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1].startswith("stopped, running work is saved")
    # Between two of the run's own checkpoints.
    assert 0 < checkpoint.read(run).step < 5_000


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--gpus-per-run", "64"), "no machine of the Ray cluster has the 1 CPUs and 64 GPUs of a run"),
        (("--address", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1: [Errno 111]"),
    ],
)
@pytest.mark.slow
def test_a_cluster_without_the_resources_is_refused(
    words: tuple[str, str], wanted: str, cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(grid(tmp_path, both(cartpole)))
    assert main(["compare", path, "--out", str(tmp_path / "out"), *ON_RAY, *words]) == 2
    assert wanted in capsys.readouterr().err.splitlines()[-1]
    assert runs(tmp_path / "out") == []


def test_a_worker_that_dies_without_progress_is_a_failure(tmp_path: Path) -> None:
    """Fail a run that kills its worker; a death is free as long as each attempt saves something new."""
    plan = read_grid(grid(tmp_path, 'cells = ["mingru"]\nseeds = 2\n[tasks.o]\nenv = "CartPole-v1"'), families())
    queue = RunQueue(plan.runs, {}, tmp_path)
    saved = tmp_path / plan.runs[0].folder / LAST_CHECKPOINT
    saved.parent.mkdir(parents=True)
    for attempt in range(5):
        run = queue.take()
        assert run == plan.runs[0]
        saved.touch()
        os.utime(saved, ns=(0, attempt + 1))
        assert queue.lost(run, "its worker died")
    assert queue.take() == plan.runs[0]
    assert queue.lost(plan.runs[0], "its worker died")
    # The second run of the grid is now first.
    assert queue.take() == plan.runs[1]
    assert not queue.close(plan.runs[1], Outcome(1.0))
    assert queue.take() == plan.runs[0]
    assert not queue.lost(plan.runs[0], "its worker died")
    assert queue.take() is None
    assert queue.failed == {plan.runs[0].key: "its worker died"}


def test_a_folder_that_another_machine_does_not_see(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    assert sees(tmp_path / "mark")
    assert not sees(tmp_path / "elsewhere" / "mark")
