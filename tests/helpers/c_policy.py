"""Exported C files, compiled and run: as a program on lines of text, and as a session like onnxruntime's."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import SimpleNamespace
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


def acted(folder: Path, compiler: str, lines: list[str]) -> np.ndarray[Any, Any]:
    """Compile main.c and policy.c with warnings as errors and sanitizers; return the actions for lines of input."""
    program = folder / f"policy-{compiler}"
    command = [compiler, *STRICT, *sanitizers(compiler), "main.c", "policy.c", "-lm", "-o", program.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([str(program)], input="\n".join(lines), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return np.array([[float(value) for value in line.split()] for line in ran.stdout.splitlines()])


class CompiledC:
    """Exported C file in `folder`, compiled into a library that acts for each environment in turn."""

    def __init__(self, folder: Path) -> None:
        import ctypes

        header = (folder / "policy.h").read_text()
        self.state_size = int(re.findall(r"POLICY_STATE_SIZE (\d+)", header)[0])
        self.kind, self.size = re.findall(r"(\w+(?: char)?) action\[(\d+)\]\);", header)[0]
        command = [COMPILERS[0], "-std=c99", "-O3", "-shared", "-fPIC", "policy.c", "-lm", "-o", "policy.so"]
        subprocess.run(command, cwd=folder, check=True)
        self.step = ctypes.CDLL(str(folder / "policy.so")).policy_step
        self.step.restype, self.real = None, ctypes.c_float

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(shape=(1, self.state_size))] * 4

    def run(self, _: None, feeds: dict[str, Any]) -> list[Any]:
        """Return the action (B, n) and the next state (B, S)."""
        dtype = {"float": np.float32, "double": np.float64, "int": np.int32, "char": np.uint8}[self.kind.split()[-1]]
        observation, state = feeds["observation"].astype(np.float32), feeds["state"].copy()
        action = np.zeros((len(state), int(self.size)), dtype)
        for row in range(len(state)):
            arrays = [x[row].ctypes.data for x in (state, observation, action)]
            state_, seen, out = arrays
            self.step(_pointer(state_), _pointer(seen), self.real(0.0), int(feeds["episode_start"][row]), _pointer(out))
        return [action, state]


def _pointer(address: int) -> Any:
    import ctypes

    return ctypes.c_void_p(address)
