"""Export of a trained agent as one C99 file with its header, checked against the agent."""

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minrl.agent import Actor
from minrl.export.c.files import Sources, write_sources
from minrl.export.c.graph import Array, read_graph
from minrl.export.check import Agreement, compare
from minrl.export.onnx import ACTION_TOLERANCE, OPSET, STATE_TOLERANCE, check_exportable, copied, required, step_graph
from minrl.system.files import replacing
from minrl.system.messages import one_line

_CTYPES: dict[str, Any] = {"float": np.float32, "double": np.float64, "unsigned char": np.uint8, "int": np.int32}
_FLAGS = ("-std=c99", "-O2", "-shared", "-fPIC")


@dataclass(frozen=True)
class ExportedC:
    """Files that were written, and how far they agree with the agent: None without a C compiler."""

    folder: Path
    sources: Sources
    agreement: Agreement | None


class CompiledPolicy:
    """Compiled `policy.c` with the interface of an `onnxruntime.InferenceSession` of the same agent."""

    def __init__(self, sources: Sources, folder: Path, compiler: str) -> None:
        for name, text in sources.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        library = folder / "policy.so"
        command = [compiler, *_FLAGS, "policy.c", "-lm", "-o", library.name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{compiler} cannot compile policy.c: {one_line(done.stderr)}")
        self.sources = sources
        self.step = ctypes.CDLL(str(library)).policy_step
        self.step.restype = None

    def run(self, names: None, feeds: dict[str, Array]) -> list[Array]:
        """Act for B environments: a list of the actions' parts (B, n), and the next state (B, S)."""
        observation = np.ascontiguousarray(feeds["observation"])
        state = np.array(feeds["state"], np.float32, order="C")
        count = len(observation)
        masks = [np.ascontiguousarray(feeds["action_masks"], np.uint8)] if self.sources.mask_size else []
        actions = [np.zeros((count, part.size), _CTYPES[part.kind]) for part in self.sources.actions]
        for row in range(count):
            self.step(
                state[row].ctypes.data_as(ctypes.c_void_p),
                observation[row].ctypes.data_as(ctypes.c_void_p),
                ctypes.c_float(float(feeds["reward"][row])),
                ctypes.c_int(bool(feeds["episode_start"][row])),
                *(part[row].ctypes.data_as(ctypes.c_void_p) for part in (*masks, *actions)),
            )
        return [*actions, state]


def export_c(agent: Actor, folder: Path | str, *, target_return: float | None = None, steps: int = 1000) -> ExportedC:
    """Write `policy.c`, `policy.h` and `main.c` into `folder` if they agree with the agent over `steps` steps.

    They are compared where a C compiler named `cc` is installed.

    Args:
        agent: any agent without a convolution over images; not changed.
        folder: made if it is missing; files of these names are replaced.
        target_return: of the initial state; the agent's own by default.

    Raises:
        ValueError: if a package is missing or the agent cannot be exported.
        FloatingPointError: if actions differ by more than 1e-5 of their range; no file is written then.
        OSError: if the files cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder")
    required("onnx")
    required("onnxscript")
    check_exportable(agent, target_return)
    agent = copied(agent)
    try:
        sources = write_sources(
            read_graph(step_graph(agent, OPSET)),
            agent=agent.name,
            initial_state=agent.initial_state(1, target_return)[0].tolist(),
            has_target=agent.target_return is not None,
        )
    except ValueError as error:
        raise ValueError(f"agent {agent.name} cannot be written as C: {error}") from None
    agreement = _checked(sources, agent, steps, target_return)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in sources.files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return ExportedC(folder, sources, agreement)


def _checked(sources: Sources, agent: Actor, steps: int, target_return: float | None) -> Agreement | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as place:
        compiled = CompiledPolicy(sources, Path(place), compiler)
        agreement = compare(compiled, agent, steps=steps, target_return=target_return)
    if not (agreement.action <= ACTION_TOLERANCE and agreement.state <= STATE_TOLERANCE):
        raise FloatingPointError(
            f"the C file differs from the agent by {agreement.action:.1e} of an action's range and "
            f"{agreement.state:.1e} of the state over {steps} steps; nothing was written"
        )
    return agreement
