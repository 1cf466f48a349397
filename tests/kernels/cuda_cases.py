"""Cases of the CUDA kernels as functions of a device: a GPU, or the CPU under Triton's interpreter.

    TRITON_INTERPRET=1 python tests/kernels/cuda_cases.py "minGRU, one step"  # JSON: case -> "" or what went wrong

Shapes: B batch, T time, D width, P parts of the gates (1: linear, 2: minGRU, 3: minLSTM).
"""

import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from minrl.kernels.scan import cuda, reference
from minrl.scan import Candidate, kernel_for, mingru_gates, mingru_scan, minlstm_gates, minlstm_scan

Case = Callable[[str], None]
Scan = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
# The interpreter takes about a millisecond an element: small tiles, with as many boundaries.
INTERPRETED_TILE = {"ROWS": 4, "LANES": 8}
STEPS, WIDTH = 11, 9
# One unit in the last place of h (Triton's interpreter truncates where a GPU rounds).
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def scans(parts: int, reset: Tensor | None, candidate: Candidate, signed: bool, hard: bool) -> tuple[Scan, Scan]:
    """Return the kernels and the loop, both of (B, T, P * D); the linear one has decay | drive, each (B, T, D)."""
    if parts == 1:
        return (
            lambda x, state: cuda.linear_scan(*x.chunk(2, -1), state, reset),
            lambda x, state: reference.linear_scan(*x.chunk(2, -1), state, reset),
        )
    form = mingru_gates if parts == 2 else minlstm_gates
    return (
        lambda x, state: cuda.gated_scan(x, state, reset, parts=parts, candidate=candidate, signed=signed, hard=hard),
        lambda x, state: reference.linear_scan(*form(x, candidate=candidate, signed=signed, hard=hard), state, reset),
    )


def inputs(parts: int, batch: int, steps: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw gates, state and resets on the CPU."""
    torch.manual_seed(steps + width)
    gates = 3 * torch.randn(batch, steps, max(parts, 2) * width)
    if parts == 1:
        gates[..., :width] = torch.rand(batch, steps, width) * 1.9 - 0.95
    return gates, torch.randn(batch, width), torch.rand(batch, steps) < 0.2


def everything(scan: Scan, gates: Tensor, state: Tensor | None) -> list[Tensor]:
    """Return h, the last state, and the gradients of a loss that uses h twice and the last state."""
    leaves = [x.detach().requires_grad_() for x in (gates, state) if x is not None]
    h, last = scan(leaves[0], leaves[1] if state is not None else None)
    torch.manual_seed(1)
    weights = torch.randn(h.shape).to(h), torch.randn(last.shape).to(last)
    # In float64, so that only the gradient to h is rounded to its precision.
    loss = (
        (h.double() * weights[0].double()).sum() + (h.double().tanh() * 0.5).sum() + (last * weights[1]).double().sum()
    )
    return [h, last, *torch.autograd.grad(loss, leaves)]


def agree(
    device: str,
    *,
    parts: int,
    batch: int = 2,
    steps: int = STEPS,
    width: int = WIDTH,
    dtype: torch.dtype = torch.float32,
    candidate: Candidate = "positive",
    signed: bool = False,
    hard: bool = False,
    resets: str = "some",
    has_state: bool = True,
    scale: float = 1.0,
    chunk: int | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> None:
    """Compare outputs and gradients with the float64 loop's from the same rounded inputs, relative to the largest."""
    gates, state, reset = (x.to(device) for x in inputs(parts, batch, steps, width))
    gates = prepare((gates * scale).to(dtype))
    start = prepare(state.unsqueeze(1))[:, 0] if has_state else None
    flags = {"some": prepare(reset), "all": torch.ones_like(prepare(reset)), "none": None}[resets]
    fused, loop = scans(parts, flags, candidate, signed, hard)
    cut = {"CHUNK": chunk or cuda.CHUNK, "multiprocessors": (lambda _: 10**6) if chunk else cuda.multiprocessors}
    with mock.patch.multiple(cuda, **cut):
        if chunk:
            assert cuda.chunks_of(len(gates), gates.shape[1], width, 10**6)[0] > 2
        actual = everything(fused, gates, start)
    wanted = everything(loop, gates.double(), None if start is None else start.double())
    precisions = [dtype, torch.float32, dtype, torch.float32]
    names = ["h", "last", "dgates", "dstate"]
    for name, found, exact, precision in zip(names, actual, wanted, precisions, strict=False):
        assert found.dtype == precision, f"{name}: {found.dtype}"
        # The last state is float32 whatever the inputs; gradients are computed from the rounded h and dh.
        tolerance = TOLERANCE[torch.float32 if name == "last" else dtype]
        if dtype != torch.float32 and name.startswith("d"):
            tolerance *= 2
        wrong, largest = (found.double() - exact).abs(), exact.abs()
        if wrong.numel():
            assert wrong.max() <= tolerance * largest.max(), f"{name}: {wrong.max() / largest.max():.1e}"


def every_second(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 0)[::2]


def turned(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def off_by_one(x: Tensor) -> Tensor:
    """Return a dense view that does not begin on a multiple of 16 bytes."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def no_number_crosses(device: str, *, parts: int, value: float) -> None:
    """Check that NaN reaches all steps that follow, and that neither it nor its gradient crosses a reset."""
    gates, state, _ = (x.to(device) for x in inputs(parts, 1, STEPS, 3))
    gates = gates * 0.3
    gates[0, 1, -3:] = value
    reset = torch.zeros(1, STEPS, dtype=torch.bool, device=device)
    reset[0, 9] = True
    fused, _ = scans(parts, reset, "positive", False, False)
    h, last, dgates, _ = everything(fused, gates, state)
    assert not h[0, 1:9].isfinite().any()
    assert h[0, 9:].isfinite().all()
    assert last.isfinite().all()
    assert dgates[0, 9:].isfinite().all()
    gates = gates.nan_to_num(0.5, 0.5).requires_grad_()
    h, _ = fused(gates, state)
    # A NaN gradient after the reset does not cross it either.
    (dgates,) = torch.autograd.grad(
        h, gates, torch.where(reset.cumsum(1)[..., None] > 0, float("nan"), 1.0).expand_as(h)
    )
    assert dgates[0, :9].isfinite().all()
    assert not dgates[0, 9:, :3].isfinite().any()


def no_number_crosses_in_chunks(device: str, *, parts: int, value: float) -> None:
    """Check the same where chunks of 4 steps run side by side, and the reset lies in the middle of the third."""
    with mock.patch.multiple(cuda, CHUNK=3, ROWS=4, multiprocessors=lambda _: 10**6):
        assert cuda.chunks_of(1, STEPS, 3, 10**6) == (3, 4)
        no_number_crosses(device, parts=parts, value=value)


def compiles_to_one_graph(device: str, *, parts: int) -> None:
    """Run forward and backward through torch.compile without a graph break."""
    gates, state, reset = (x.to(device) for x in inputs(parts, 1, 5, 3))
    fused, _ = scans(parts, reset, "positive", False, False)

    def loss(gates: Tensor, state: Tensor) -> Tensor:
        h, last = fused(gates, state)
        return h.square().sum() + last.sum()

    leaves = [gates.requires_grad_(), state.requires_grad_()]
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for found, exact in zip(torch.autograd.grad(compiled(*leaves), leaves), wanted, strict=True):
        assert torch.allclose(found, exact, rtol=1e-6)


def registered_as_torch_asks(device: str, *, parts: int) -> None:
    gates, state, reset = (x.to(device) for x in inputs(parts, 1, 5, 3))
    leaves = [x.requires_grad_() for x in ([*gates.chunk(2, -1), state] if parts == 1 else [gates, state])]
    if parts == 1:
        torch.library.opcheck(torch.ops.minrl.cuda_linear_scan.default, (*leaves, reset))
    else:
        torch.library.opcheck(torch.ops.minrl.cuda_gated_scan.default, (*leaves, reset, parts, "tanh", True, False))


def by_its_public_name(device: str, *, parts: int) -> None:
    """Take and return half precision, with a float32 state."""
    gates, state, reset = (x.to(device) for x in inputs(parts, 1, 5, 3))
    gates = gates.to(torch.bfloat16).requires_grad_()
    assert kernel_for(gates) == "cuda"
    h, last = (mingru_scan if parts == 2 else minlstm_scan)(gates, state, reset)
    own = cuda.gated_scan(gates, state, reset, parts=parts, candidate="positive", signed=False)
    assert (h.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(h, own[0])
    assert torch.equal(last, own[1])
    (dgates,) = torch.autograd.grad(h.float().sum() + last.sum(), gates)
    assert dgates.dtype == torch.bfloat16


def cases() -> dict[str, Case]:
    """Map names to all cases."""
    found: dict[str, Case] = {}
    for parts, recurrence in {1: "linear", 2: "minGRU", 3: "minLSTM"}.items():
        run = partial(agree, parts=parts)
        found |= {
            f"{recurrence}, one step": partial(run, steps=1),
            f"{recurrence}, whole tiles, one sequence": partial(run, batch=1, steps=16, width=16),
            f"{recurrence}, one lane": partial(run, width=1),
            f"{recurrence}, bfloat16": partial(run, dtype=torch.bfloat16),
            f"{recurrence}, float16": partial(run, dtype=torch.float16, steps=5),
            f"{recurrence}, all reset": partial(run, resets="all"),
            f"{recurrence}, no reset, no state": partial(run, resets="none", has_state=False),
            f"{recurrence}, every second sequence": partial(run, prepare=every_second),
            f"{recurrence}, turned": partial(run, steps=5, prepare=turned),
            f"{recurrence}, off by one": partial(run, steps=5, prepare=off_by_one),
            f"{recurrence}, no sequence": partial(run, prepare=lambda x: x[:0]),
            f"{recurrence}, in chunks": partial(run, steps=50, width=3, chunk=16),
            f"{recurrence}, in chunks, no reset": partial(run, steps=50, width=3, chunk=16, resets="none", signed=True),
            f"{recurrence}, in chunks, bfloat16": partial(run, steps=50, width=3, chunk=16, dtype=torch.bfloat16),
            f"{recurrence}, nan ends at a reset": partial(no_number_crosses, parts=parts, value=float("nan")),
            f"{recurrence}, inf ends at a reset": partial(no_number_crosses, parts=parts, value=float("inf")),
            f"{recurrence}, nan in chunks": partial(no_number_crosses_in_chunks, parts=parts, value=float("nan")),
            f"{recurrence}, one graph": partial(compiles_to_one_graph, parts=parts),
            f"{recurrence}, registration": partial(registered_as_torch_asks, parts=parts),
        }
    for parts, recurrence in {2: "minGRU", 3: "minLSTM"}.items():
        found[f"{recurrence}, by its public name"] = partial(by_its_public_name, parts=parts)
        for candidate in ("positive", "tanh", "linear"):
            for signed in (False, True):
                name = f"{recurrence}, {candidate}, {'signed' if signed else 'not signed'}"
                found[name] = partial(agree, parts=parts, steps=6, candidate=candidate, signed=signed)
            # 3 * randn * 40: gates of 120 and more, both closed, both open.
            name = f"{recurrence}, {candidate}, large gates"
            found[name] = partial(agree, parts=parts, steps=6, candidate=candidate, scale=40.0)
        found[f"{recurrence}, hard gates"] = partial(agree, parts=parts, candidate="tanh", hard=True, scale=1.5)
    return found


def failure(case: Case) -> str:
    """Return the traceback of a failure, or an empty string."""
    try:
        case("cpu")
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> int:
    """Run the cases that the arguments name under the interpreter; print their failures."""
    torch.set_num_threads(1)
    assert cuda.interpreted()
    with mock.patch.multiple(cuda, **INTERPRETED_TILE):
        print(json.dumps({name: failure(cases()[name]) for name in sys.argv[1:]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
