"""The CUDA kernels under Triton's interpreter and, if present, on a GPU, by cuda_cases.py.

Shapes: B batch, T time, D width, P parts of the gates.
"""

import json
import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import fresh
import pytest
import torch
from cuda_cases import agree, cases

from minrl.kernels.scan import cuda
from minrl.scan import KERNELS, kernel_for, mingru_scan

ROOT = Path(__file__).resolve().parent.parent.parent
CASES = cases()
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(program: str | Path, *words: str | Path, **environment: str) -> str:
    """Run a Python program in a process of its own, as Triton reads its variables on import; return its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_INTERPRET")}
    done = fresh.run(program, *words, env={**kept, **environment}, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def interpreted(*names: str) -> dict[str, str]:
    """Return the failure of each case under the interpreter, empty where it passed."""
    failures: dict[str, str] = json.loads(run(ROOT / "tests/kernels/cuda_cases.py", *names, TRITON_INTERPRET="1"))
    assert tuple(failures) == names
    return failures


# The interpreter takes 16 s of CPU time for each recurrence: these are what differs in kind, and all gates together.
FEW = [
    f"minGRU, {name}"
    for name in (
        "one step", "one lane", "bfloat16", "no reset, no state", "turned", "no sequence", "in chunks", "registration",
        "nan in chunks", "by its public name", "tanh, signed", "linear, large gates",
    )
]  # fmt: skip


@needs_triton
@pytest.mark.parametrize("name", FEW)
def test_under_the_interpreter(name: str) -> None:
    assert interpreted(*FEW)[name] == ""


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("name", [name for name in CASES if name not in FEW])
def test_all_under_the_interpreter(name: str) -> None:
    recurrence = name.split(",")[0]
    assert interpreted(*(other for other in CASES if other not in FEW and other.startswith(recurrence)))[name] == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu(name: str) -> None:
    CASES[name]("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize(("batch", "steps", "width"), [(1, 16384, 4), (2, 3000, 70), (300, 100, 256)])
def test_many_tiles_and_chunks_on_a_gpu(parts: int, batch: int, steps: int, width: int) -> None:
    agree("cuda", parts=parts, batch=batch, steps=steps, width=width)
    agree("cuda", parts=parts, batch=batch, steps=steps, width=width, dtype=torch.bfloat16, resets="none")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_recorded_as_a_graph() -> None:
    """Replay forward and backward on other inputs, and compare with a run of their own."""
    gates, state = torch.randn(4, 1000, 64, device="cuda"), torch.randn(4, 32, device="cuda")
    reset = torch.rand(4, 1000, device="cuda") < 0.01
    gates.requires_grad_()

    def step() -> list[torch.Tensor]:
        h, last = mingru_scan(gates, state, reset)
        return [h, last, *torch.autograd.grad(h.square().sum() + last.sum(), gates)]

    assert kernel_for(gates) == "cuda"
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step()
    with torch.no_grad():
        gates.copy_(torch.randn_like(gates))
    graph.replay()
    for replayed, anew in zip(recorded, step(), strict=True):
        assert torch.equal(replayed, anew)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offsets_beyond_32_bits() -> None:
    """Scan sequences of more than 2^32 elements together: the last equals the first."""
    free, _ = torch.cuda.mem_get_info()
    if free < 40 << 30:
        pytest.skip("needs 40 GB of GPU memory")
    gates = torch.randn(1, 1 << 16, 2048, device="cuda", dtype=torch.bfloat16).repeat(33, 1, 1).requires_grad_()
    h, _ = mingru_scan(gates)
    (dgates,) = torch.autograd.grad(h, gates, torch.ones_like(h))
    for x in (h, dgates):
        assert torch.equal(x[0], x[-1])


def test_time_is_cut_where_most_of_the_chip_would_be_idle() -> None:
    many, few = cuda.chunks_of(64, 4096, 256, 132), cuda.chunks_of(16, 4096, 64, 132)
    assert many == (1, 4096)
    assert few == (16, 256)
    assert cuda.chunks_of(16, 512, 64, 132) == (1, 512)
    for batch, steps, width in ((1, 1, 1), (1, 767, 8), (1, 1000, 8), (3, 100_003, 70), (2, 10**7, 16)):
        chunks, length = cuda.chunks_of(batch, steps, width, 132)
        assert (chunks - 1) * length < steps <= chunks * length
        assert chunks == 1 or (length >= cuda.CHUNK and length % cuda.ROWS == 0)
        assert chunks <= cuda.ENOUGH * 132
    assert cuda.chunks_of(2, 10**7, 16, 132)[0] > 200


def test_unsupported_inputs_run_in_torch() -> None:
    assert not cuda.takes(torch.zeros(1))
    assert not cuda.takes(torch.zeros(1, device="meta"))
    assert kernel_for(torch.zeros(1, dtype=torch.bfloat16)) == "chunked"
    decay, drive = torch.rand(1, 3, 2, dtype=torch.float64), torch.rand(1, 3, 2, dtype=torch.float64)
    assert torch.equal(KERNELS["cuda"](decay, drive, None, None)[0], KERNELS["chunked"](decay, drive, None, None)[0])


def test_triton_is_optional() -> None:
    """Scan without Triton; with it, load the kernels only for a GPU."""
    program = """
import sys
if sys.argv[1] == "without":
    sys.modules["triton"] = None
import torch, minrl
from minrl.kernels.scan import cuda
from minrl.scan import mingru_scan
mingru_scan(torch.zeros(1, 2, 4))
mingru_scan(torch.zeros(1, 2, 4, dtype=torch.bfloat16))
print(cuda.available() if sys.argv[1] == "without" else "minrl.kernels.scan.cuda_loops" in sys.modules)
"""
    assert run(program, "without") == "False\n"
    assert run(program, "with") == "False\n"


# Triton's launcher binds the arguments and compiles for an absent GPU; no kernel runs.
BOUND = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from minrl.kernels.scan import cuda, cuda_loops

class Absent:
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0

driver.set_active(Absent())
run = JITFunction.run
JITFunction.run = lambda self, *args, **options: run(self, *args, **{**options, "warmup": True})

def both(steps, width, is_bare, multiprocessors):
    cuda.multiprocessors = lambda device: multiprocessors
    state, reset = (None, None) if is_bare else (torch.zeros(2, width), torch.zeros(2, steps, dtype=torch.bool))
    gates = torch.zeros(2, steps, 2 * width, requires_grad=True)
    h, last = cuda.gated_scan(gates, state, reset, parts=2, candidate="tanh", signed=True)
    torch.autograd.grad(h.sum() + last.sum(), gates)
    return [len(getattr(cuda_loops, name).device_caches[0][0]) for name in ("forward", "backward", "forward_totals")]

print([both(1000, 7, True, 1), both(1024, 64, False, 1), both(1, 64, False, 1), both(768, 64, False, 99)])
"""


@needs_triton
def test_binds_as_triton_launches() -> None:
    """Launch without state and resets, with odd widths, in chunks or not; another length compiles nothing."""
    assert json.loads(run(BOUND)) == [[1, 1, 0], [2, 2, 0], [2, 2, 0], [3, 3, 1]]


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's tools are for Linux")
def test_compiles_without_spills(tmp_path: Path) -> None:
    """Compile minGRU's and minLSTM's kernels for sm_90 without a GPU: in registers alone, with wide loads."""
    written = tmp_path / "table.json"
    only = ["--compile-only", "--capability", "90", "--recurrence", "minGRU", "minLSTM"]
    run(ROOT / "benchmarks/cuda_kernel.py", *only, "--json", written)
    compiled = json.loads(written.read_text())["compiled"]
    assert {row["kernel"] for row in compiled} == {"forward", "forward_totals", "backward", "backward_totals"}
    assert {row["precision"] for row in compiled} == {"bfloat16", "float32"}
    for row in compiled:
        assert row["spills"] == 0, row
        assert row["registers"] <= 128, row
        assert row["wide loads"] > 0, row
