"""The command line in a forked child, with all modules loaded: a new process takes 3 s to start."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from stable_baselines3.common.logger import Logger

from minrl.agents.__main__ import main


class Forked:
    """Command in a child process with its own output, folder, environment and signals."""

    def __init__(
        self,
        *words: Any,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        own_session: bool = False,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.words = [str(word) for word in words]
        self.outputs = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(cwd, env, own_session, prepare)

    def _run(
        self, cwd: Path | None, env: dict[str, str] | None, own_session: bool, prepare: Callable[[], None]
    ) -> None:
        """Run the command as a new process would, and exit."""
        code: Any = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the test's time limit belongs to the parent
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for number, file in enumerate(self.outputs, start=1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
            if own_session:
                os.setsid()
            if env is not None:
                os.environ.clear()
                os.environ.update(env)
            if cwd is not None:
                os.chdir(cwd)
                sys.path.insert(0, str(cwd))
            prepare()
            code = main(self.words)
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def poll(self) -> int | None:
        """Return the exit code, minus the number of the signal that ended it; None while it runs."""
        return self._wait(os.WNOHANG)

    def communicate(self) -> tuple[str, str]:
        """Wait for the end and return what it wrote to standard output and standard error."""
        self._wait(0)
        for file in self.outputs:
            file.seek(0)
        out, err = (file.read() for file in self.outputs)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode


def minrl(*words: Any, **options: Any) -> "CompletedProcess[str]":
    """Run a command in a child process."""
    process = Forked(*words, **options)
    out, err = process.communicate()
    assert process.returncode is not None
    return CompletedProcess(process.words, process.returncode, out, err)


def cut_off_at(rows: int, number: int, *words: Any, part: str = "") -> "CompletedProcess[str]":
    """Run a command and send it signal `number` when a log in a folder with `part` in its name has `rows` rows."""

    def prepare() -> None:
        dump, written = Logger.dump, 0

        def counted(self: Logger, step: int = 0) -> None:
            nonlocal written
            if part in str(self.dir):
                if written == rows:
                    os.kill(os.getpid(), number)
                written += 1
            dump(self, step)

        Logger.dump = counted  # type: ignore[method-assign]

    return minrl(*words, prepare=prepare)


def wait_until(reached: Callable[[], bool], process: Forked) -> None:
    """Wait until the condition holds, at most until the process ends."""
    while not reached():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def cut_off_when(reached: Callable[[], bool], number: int, *words: Any, **options: Any) -> "CompletedProcess[str]":
    """Run a command and send it a signal once `reached()` holds."""
    process = Forked(*words, **options)
    try:
        wait_until(reached, process)
        process.send_signal(number)
        out, err = process.communicate()
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.returncode is not None
    return CompletedProcess(process.words, process.returncode, out, err)
