"""The notice about compiling: printed after a compilation, and not after reading from disk."""

import os
from pathlib import Path

import fresh
import pytest

PROGRAM = """
from itertools import count
from types import SimpleNamespace

import numpy as np
from minrl.kernels.jit import compile

def fill(x):
    for i in range(len(x)):
        x[i] = 2.0 * i

if {in_memory}:
    # Code without a file has no cache folder in numba.
    exec("def fill(x):\\n    for i in range(len(x)):\\n        x[i] = 2.0 * i")
# A slow machine: each reading of the clock is five seconds after the last.
compile.time = SimpleNamespace(perf_counter=count(step=5.0).__next__)
{before}
call, x = compile.compiled(fill), np.zeros(5)
call(x)
assert x.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
{more}
"""


def notice(folder: Path, in_memory: bool = False, before: str = "", more: str = "") -> list[str]:
    """Return the standard error of a process of its own, with its compiled code in `folder`."""
    program = folder / "program.py"
    if not program.exists():  # numba caches code by its file's modification time
        program.write_text(PROGRAM.format(in_memory=in_memory, before=before, more=more), encoding="utf-8")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    done = fresh.run(program, env=environment, check=True)
    return done.stderr.splitlines()


def test_only_compiling_is_announced(tmp_path: Path) -> None:
    first, second = notice(tmp_path), notice(tmp_path)
    assert len(first) == 1
    assert first[0].startswith("minrl: compiled a CPU kernel in ")
    assert first[0].endswith(" s (kept on disk for later runs)")
    assert second == []


@pytest.mark.parametrize("more", ["", "call(np.zeros(3, np.float32))"], ids=["once", "a second form"])
def test_code_that_is_not_kept_is_announced_so(tmp_path: Path, more: str) -> None:
    for _ in range(2):
        (line,) = notice(tmp_path, in_memory=True, more=more)
        assert line.startswith("minrl: compiled a CPU kernel in ")
        assert "kept on disk" not in line
        assert "NUMBA_CACHE_DIR" in line


@pytest.mark.parametrize("call", ["load", "save"])
def test_a_folder_that_is_full_or_gone_costs_no_call(tmp_path: Path, call: str) -> None:
    full = f"def full(*arguments): raise OSError('full')\ncompile.FunctionCache.{call}_overload = full"
    (line,) = notice(tmp_path, before=full)
    assert ("kept on disk" in line) == (call == "load")
