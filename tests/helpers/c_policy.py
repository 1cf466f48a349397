"""Exported C files, compiled and run on lines of text."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O2")


@cache
def sanitizers(compiler: str) -> tuple[str, ...]:
    """Return the flags of the sanitizers; none where the compiler comes without their libraries."""
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    command = [compiler, *flags, "-x", "c", "-", "-o", "/dev/null"]
    done = subprocess.run(command, input="int main(void) { return 0; }", text=True, capture_output=True, check=False)
    return () if done.returncode else flags


def acted(folder: Path, compiler: str, lines: list[str], *flags: str) -> np.ndarray[Any, Any]:
    """Compile main.c and policy.c with warnings as errors and sanitizers; return the actions for lines of input."""
    program = folder / f"policy-{compiler}"
    command = [compiler, *STRICT, *flags, *sanitizers(compiler), "main.c", "policy.c", "-lm", "-o", program.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([str(program)], input="\n".join(lines), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return np.array([[float(value) for value in line.split()] for line in ran.stdout.splitlines()])
