"""Runs that are cut off: the command line in a process of its own that a signal meets at a known place of its log."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# Before the row that follows `rows` others in the log of a folder whose name holds `part`.
PROGRAM = """
import os, sys
from stable_baselines3.common.logger import Logger
from minrl.agents.__main__ import main

number, rows, part = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dump = Logger.dump

def counted(self, step=0):
    global rows
    if part in str(self.dir):
        if rows == 0:
            os.kill(os.getpid(), number)
        rows -= 1
    dump(self, step)

Logger.dump = counted
sys.exit(main(sys.argv[4:]))
"""
Ended = tuple[int, str, str]  # exit code, output, errors


def cut_off_at(rows: int, number: int, *words: Any, part: str = "") -> Ended:
    """Run a command that sends itself the signal `number` when `rows` rows of a log are written."""
    command = [sys.executable, "-c", PROGRAM, str(int(number)), str(rows), part, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def started(*words: Any, **options: Any) -> "subprocess.Popen[str]":
    """Start a command in a process of its own."""
    command = [sys.executable, "-m", "minrl.agents", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_until(reached: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait as long as it takes, and no longer than the process lives."""
    while not reached():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def cut_off_when(reached: Callable[[], bool], number: signal.Signals, *words: Any) -> Ended:
    """Send a signal to a command that does not end by itself once `reached()` holds."""
    process = started(*words)
    try:
        wait_until(reached, process)
        process.send_signal(number)
        stdout, stderr = process.communicate()
    finally:
        process.kill()
    return process.returncode, stdout, stderr
