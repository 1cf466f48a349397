"""Edge cases of all recurrences on every CPU path, against the loop in float64.

Shapes: B batch, T time, D width, P parts of the gates (1 stands for decay and drive).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minrl.kernels.scan import reference
from minrl.scan import (
    kernel_for,
    linear_scan,
    mingru_gates,
    mingru_scan,
    minlstm_gates,
    minlstm_scan,
    without_fused_kernels,
)

PATHS: dict[str, Callable[[], AbstractContextManager[None]]] = {"cpu": nullcontext, "chunked": without_fused_kernels}
FORMS = {"mingru": mingru_gates, "minlstm": minlstm_gates}
SCANS = {"mingru": mingru_scan, "minlstm": minlstm_scan}
PARTS = {"linear": 2, "mingru": 2, "minlstm": 3}

Scan = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


def fast(name: str) -> Scan:
    """Return the public scan, of inputs packed side by side."""
    if name == "linear":
        return lambda x, state, reset: linear_scan(torch.sigmoid(x.chunk(2, -1)[0]), x.chunk(2, -1)[1], state, reset)
    return lambda x, state, reset: SCANS[name](x, state, reset)


def loop(name: str) -> Scan:
    """Return the same recurrence as the reference loop."""

    def run(x: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        if name == "linear":
            decay, drive = torch.sigmoid(x.chunk(2, -1)[0]), x.chunk(2, -1)[1]
        else:
            decay, drive = FORMS[name](x, candidate="positive", signed=False)
        return reference.linear_scan(decay, drive, state, reset)

    return run


def everything(scan: Scan, x: Tensor, state: Tensor | None, reset: Tensor | None) -> list[Tensor]:
    """Return h, the last state, and the gradients of a loss that uses h twice and the last state once."""
    leaves = [tensor.requires_grad_() for tensor in (x, state) if tensor is not None]
    h, last = scan(x, state, reset)
    torch.manual_seed(3)
    first, second, third = (torch.randn(y.shape, dtype=torch.float64).to(y.dtype) for y in (h, h, last))
    loss = (h * first).sum() + (h.square() * second).sum() + (last * third).sum()
    return [h, last, *torch.autograd.grad(loss, leaves)]


def turned(x: Tensor) -> Tensor:
    """Return the same values, time-major in memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def sliced(x: Tensor) -> Tensor:
    """Return the same values in the middle of a larger tensor, every second of its rows."""
    wide = x.new_full((2 * x.shape[0], *(size + 3 for size in x.shape[1:])), 7 if x.dtype != torch.bool else 1)
    window = wide[(slice(None, None, 2), *(slice(2, 2 + size) for size in x.shape[1:]))]
    window.copy_(x)
    return window


EDGES: dict[str, dict[str, Any]] = {
    "one step": {"steps": 1},
    "no whole tile": {"steps": 67},
    "many chunks": {"steps": 300},
    "all reset": {"resets": "all"},
    "no reset": {"resets": "none"},
    "no state": {"has_state": False},
    "odd width": {"width": 19},
    "one lane": {"width": 1},
    "one sequence": {"batch": 1},
    "no sequence": {"batch": 0},
    "turned": {"prepare": turned},
    "sliced": {"prepare": sliced},
    "large": {"scale": 120.0},
}


def inputs(
    name: str,
    batch: int = 3,
    steps: int = 40,
    width: int = 6,
    resets: str = "some",
    has_state: bool = True,
    scale: float = 0.0,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Draw inputs in float32; those of a large scale are plus or minus it."""
    torch.manual_seed(0)
    x = 2 * torch.randn(batch, steps, PARTS[name] * width)
    x = scale * x.sign() if scale else x
    reset = {"some": torch.rand(batch, steps) < 0.1, "all": torch.ones(batch, steps, dtype=torch.bool), "none": None}
    flags, state = reset[resets], torch.randn(batch, width) if has_state else None
    return prepare(x), None if state is None else prepare(state), None if flags is None else prepare(flags)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("edge", EDGES)
def test_edges(path: str, name: str, edge: str) -> None:
    """Compare outputs, last state and all gradients to 5e-6 of the largest element of each."""
    x, state, reset = inputs(name, **EDGES[edge])
    exact = everything(loop(name), x.double(), None if state is None else state.double(), reset)
    with PATHS[path]():
        assert kernel_for(x) == path or path == "cpu"
        actual = everything(fast(name), x.detach(), None if state is None else state.detach(), reset)
    for a, b in zip(actual, exact, strict=True):
        assert a.shape == b.shape
        if b.numel():
            assert (a.double() - b).abs().max() <= 5e-6 * b.abs().max().clamp_min(1e-6)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("width", [5, 64])
def test_steps_are_the_scan_to_the_bit(name: str, width: int) -> None:
    """Call the CPU path once a step from the carried state, with resets by hand."""
    pytest.importorskip("numba")
    x, state, reset = inputs(name, width=width, steps=90)
    assert state is not None
    assert reset is not None
    h, last = fast(name)(x, state, reset)
    for t in range(90):
        out, state = fast(name)(x[:, t : t + 1], state.masked_fill(reset[:, t, None], 0.0), None)
        assert torch.equal(out[:, 0], h[:, t])
    assert torch.equal(state, last)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("path", PATHS)
def test_survives_torch_export(name: str, path: str) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
            return fast(name)(x, state, reset)

    arguments: Any = inputs(name)
    with torch.no_grad(), PATHS[path]():
        exported = torch.export.export(Model(), arguments)
        wanted = Model()(*arguments)
    for a, b in zip(exported.module()(*arguments), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
