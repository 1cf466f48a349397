"""The compiled CPU kernels against the loop in float64, and under torch.compile, threads and forks.

Shapes: B batch, T time, D width, P parts of the gates.
"""

import os
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path

import fresh
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from minrl.kernels.scan import cpu, reference
from minrl.scan import (
    KERNELS,
    Candidate,
    kernel_for,
    linear_scan,
    mingru_gates,
    mingru_scan,
    minlstm_gates,
    minlstm_scan,
)

pytest.importorskip("numba")

SCANS = {2: mingru_scan, 3: minlstm_scan}
FORMS = {2: mingru_gates, 3: minlstm_gates}


# Compiled for each precision, which takes half a minute: `make test` has the one that agents have.
every_precision = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=["float32", "float64"]
)


def case(
    parts: int, shape: tuple[int, int, int], scale: float = 3.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw gates, state and resets."""
    batch, steps, width = shape
    gates = scale * torch.randn(batch, steps, parts * width)
    reset = torch.rand(batch, steps) < 0.1
    reset[0, 0] = False
    return gates.to(dtype), torch.randn(batch, width).to(dtype), reset


def everything(
    scan: Callable[..., tuple[Tensor, Tensor]], gates: Tensor, state: Tensor | None, reset: Tensor | None
) -> list[Tensor]:
    """Return h, the last state, and the gradients of a random loss of both."""
    leaves = [x.clone().requires_grad_() for x in (gates, state) if x is not None]
    h, last = scan(leaves[0], leaves[1] if state is not None else None, reset)
    torch.manual_seed(1)
    loss = (h * torch.randn(h.shape, dtype=torch.float64).to(h.dtype)).sum()
    loss = loss + (last * torch.randn(last.shape, dtype=torch.float64).to(h.dtype)).sum()
    return [h, last, *torch.autograd.grad(loss, leaves)]


def assert_as_the_loop(
    parts: int,
    dtype: torch.dtype,
    inputs: tuple[Tensor, Tensor | None, Tensor | None],
    candidate: Candidate = "positive",
    signed: bool = False,
    hard: bool = False,
) -> None:
    """Compare with the loop from the same rounded inputs, relative to the largest element of each."""
    gates, state, reset = inputs
    tolerance = 5e-6 if dtype == torch.float32 else 1e-11

    def loop(gates: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        return reference.linear_scan(*FORMS[parts](gates, candidate=candidate, signed=signed, hard=hard), state, reset)

    def fused(gates: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        assert kernel_for(gates) == "cpu"
        return SCANS[parts](gates, state, reset, candidate=candidate, signed=signed, hard=hard)

    gates, state = gates.to(dtype), None if state is None else state.to(dtype)
    wanted = everything(loop, gates.double(), None if state is None else state.double(), reset)
    for actual, exact in zip(everything(fused, gates, state, reset), wanted, strict=True):
        assert actual.dtype == dtype
        assert (actual.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize(
    ("width", "steps"),
    dict.fromkeys([*product([1, 5, 16, 70, 256, 300], [65]), *product([5, 300], [1, 63, 64, 65, 130])]),
)
@every_precision
def test_any_shape(parts: int, width: int, steps: int, dtype: torch.dtype) -> None:
    """Scan from one lane to more than a block, one step to more than two chunks, and no multiple of either."""
    assert_as_the_loop(parts, dtype, case(parts, (2, steps, width)))


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("candidate", ["positive", "tanh", "linear"])
@pytest.mark.parametrize("signed", [False, True])
@every_precision
def test_any_option(parts: int, candidate: Candidate, signed: bool, dtype: torch.dtype) -> None:
    assert_as_the_loop(parts, dtype, case(parts, (3, 40, 9)), candidate, signed)


@pytest.mark.parametrize("parts", [2, 3])
@every_precision
def test_without_state_or_resets_and_with_resets_everywhere(parts: int, dtype: torch.dtype) -> None:
    gates, state, reset = case(parts, (2, 70, 7), dtype=dtype)
    for inputs in ((gates, None, None), (gates, state, None), (gates, None, reset)):
        assert_as_the_loop(parts, dtype, inputs)
    all_reset = torch.ones_like(reset)
    h, last, dgates, dstate = everything(SCANS[parts], gates, state, all_reset)
    alone = SCANS[parts](gates.flatten(0, 1).unsqueeze(1))[0].view_as(h)
    assert torch.allclose(h, alone, rtol=1e-6)
    assert torch.equal(last, h[:, -1])
    assert torch.all(dstate == 0)
    assert dgates.abs().max() > 0


@pytest.mark.parametrize("parts", [2, 3])
def test_a_long_memory_in_float32(parts: int) -> None:
    """Compare with float64 to 5e-6 for decays of 0.9997 over 6,000 steps, in outputs and gradients."""
    gates, state, reset = case(parts, (1, 6000, 4), scale=0.1)
    gates[..., : 4 * (parts - 1)] += 8.1 * torch.tensor([-1.0] if parts == 2 else [1.0] * 4 + [0.0] * 4)
    if parts == 3:
        gates[..., 4:8] -= 8.1
    assert_as_the_loop(parts, torch.float32, (gates, state, reset & (torch.rand(1, 6000) < 0.01)))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 3])
def test_gradients_against_differences(parts: int) -> None:
    gates, state, reset = case(parts, (2, 5, 3), scale=1.0, dtype=torch.float64)
    inputs = [gates.requires_grad_(), state.requires_grad_()]
    assert gradcheck(lambda g, s: SCANS[parts](g, s, reset), inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_ends_at_a_reset(value: float) -> None:
    """Check that it reaches all steps that follow, and that neither it nor its gradient crosses a reset."""
    gates = torch.randn(1, 6, 2 * 3)
    gates[0, 1, 3:] = value
    gates.requires_grad_()
    reset = torch.tensor([[False, False, False, False, True, False]])
    h, _ = mingru_scan(gates, None, reset)
    assert not h[0, 1:4].isfinite().any()
    assert h[0, 4:].isfinite().all()
    (dgates,) = torch.autograd.grad(h[0, 4:].sum(), gates)
    assert torch.all(dgates[0, 4:] != 0)


@pytest.mark.parametrize("parts", [2, 3])
def test_views_and_no_rows(parts: int) -> None:
    gates, state, reset = case(parts, (4, 20, 6))
    wanted = everything(SCANS[parts], gates[::2].clone(), state[::2].clone(), reset[::2].clone())
    turned = gates.transpose(0, 2).contiguous().transpose(0, 2)
    for actual, exact in zip(everything(SCANS[parts], turned[::2], state[::2], reset[::2]), wanted, strict=True):
        assert torch.equal(actual, exact)
    for actual in everything(SCANS[parts], gates[:0], state[:0], reset[:0]):
        assert actual.shape[0] == 0


def test_the_number_of_threads_has_no_effect() -> None:
    gates, state, reset = case(2, (8, 130, 300))
    one = everything(mingru_scan, gates, state, reset)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        three = everything(mingru_scan, gates, state, reset)
        assert any(thread.name.startswith("minrl-scan") for thread in threading.enumerate())
    finally:
        torch.set_num_threads(before)
    for a, b in zip(one, three, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("scan", [mingru_scan, minlstm_scan, linear_scan])
def test_compiles_to_one_graph(scan: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Run forward and backward through torch.compile without a break; "aot_eager" needs no C++ compiler."""
    gates, state, reset = case(3, (2, 20, 4))
    parts = (
        [gates[..., :4], gates[..., 4:8]] if scan is linear_scan else [gates[..., : 12 if scan is minlstm_scan else 8]]
    )

    def loss(state: Tensor, *parts: Tensor) -> Tensor:
        h, last = scan(*parts, state, reset)
        return h.square().sum() + last.sum()

    leaves = [x.clone().requires_grad_() for x in (state, *parts)]
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    actual = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(*leaves), leaves)
    for a, b in zip(actual, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("name", ["cpu_gated_scan", "cpu_linear_scan"])
def test_registered_as_torch_asks(name: str) -> None:
    gates, state, reset = case(2, (2, 9, 4))
    gates.requires_grad_()
    state.requires_grad_()
    gated = (gates, state, reset, 2, "tanh", True, False)
    linear = (gates[..., :4], gates[..., 4:], state, reset)
    torch.library.opcheck(getattr(torch.ops.minrl, name).default, gated if name == "cpu_gated_scan" else linear)


def test_autocast_keeps_a_float32_state() -> None:
    layer = torch.nn.Linear(6, 12)
    x = torch.randn(2, 30, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, last = mingru_scan(layer(x))
    assert (h.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    h.float().sum().backward()
    exact = mingru_scan(layer(x))[0]
    assert torch.allclose(h.float(), exact, atol=0.05)
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_unsupported_inputs_run_in_torch() -> None:
    assert kernel_for(torch.zeros(1)) == "cpu"
    assert kernel_for(torch.zeros(1, device="meta")) == "chunked"
    mixed = torch.rand(1, 3, 2), torch.rand(1, 3, 2, dtype=torch.float64)
    assert torch.allclose(KERNELS["cpu"](*mixed, None, None)[0], KERNELS["chunked"](*mixed, None, None)[0])


def run(program: str, **environment: str) -> str:
    """Run `program`; return its standard error."""
    done = fresh.run(program, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stderr


ONE_SCAN = "import torch; from minrl.scan import mingru_scan; print(mingru_scan(torch.zeros(1, 2, 4))[0].sum())"


def test_without_numba_it_is_silent() -> None:
    assert run(f"import sys; sys.modules['numba'] = None; {ONE_SCAN}") == ""


@pytest.mark.slow
def test_a_first_compilation_is_announced_once_and_kept(tmp_path: Path) -> None:
    first = run(ONE_SCAN, NUMBA_CACHE_DIR=str(tmp_path))
    assert len(first.splitlines()) <= 1
    assert list(tmp_path.rglob("*.nbc"))
    assert run(ONE_SCAN, NUMBA_CACHE_DIR=str(tmp_path)) == ""


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """Scan where the folder cannot be made, and where it is gone by the time of saving."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    run(ONE_SCAN, NUMBA_CACHE_DIR=str(blocker / "cache"), HOME=str(blocker), XDG_CACHE_HOME=str(blocker))
    gone = f"""
import shutil
from minrl.kernels.scan import cpu_loops
cpu_loops.gated_forward(2, 0)
shutil.rmtree({str(tmp_path / "gone")!r})
open({str(tmp_path / "gone")!r}, "w").close()
{ONE_SCAN}
"""
    run(gone, NUMBA_CACHE_DIR=str(tmp_path / "gone"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_scan() -> None:
    """Start threads of its own in the child, as it has none of the parent's."""
    program = """
import os, sys, torch
from minrl.scan import mingru_scan
torch.set_num_threads(2)
x = torch.randn(64, 32, 128)
h = mingru_scan(x)[0]
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(mingru_scan(x)[0], h) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    run(program)


assert cpu.available()
