"""The GRU's recurrence against torch.nn.GRU and closed forms; `test_recurrences` has the common contract.

Shapes: B batch, T time, D width of the input, H width.
"""

from collections.abc import Callable

import pytest
import torch
from contract import assert_near
from torch import Tensor, nn

from minrl.cells import CELLS, gru
from minrl.cells.gru import gru_layer
from minrl.kernels.gru import cpu, reference
from minrl.scan import without_fused_kernels

Scan = Callable[..., tuple[Tensor, ...]]


def with_gradients(scan: Scan, leaves: list[Tensor]) -> list[Tensor]:
    """Return h, last and the gradients of a random loss of both to the leaves."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    h, last = scan(*leaves)
    torch.manual_seed(5)
    of_h, of_last = torch.randn(h.shape, dtype=torch.float64), torch.randn(last.shape, dtype=torch.float64)
    loss = (h * of_h.to(h)).sum() + (last * of_last.to(h)).sum()
    return [h, last, *torch.autograd.grad(loss, leaves)]


def assert_all_near(actual: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for number, (a, b) in enumerate(zip(actual, wanted, strict=True)):
        assert_near(a, b, tolerance, f"{number}")


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 9, 3), (1, 33, 64), (5, 6, 130), (70, 3, 17)])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "unbiased"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float64, 1e-10, marks=pytest.mark.slow), (torch.float32, 1e-5)]
)
def test_equal_to_torch(size: tuple[int, int, int], bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs, last state and the gradients to input, weights, biases and state with torch.nn.GRU."""
    batch, steps, width = size
    torch.manual_seed(1)
    peer = nn.GRU(width + 2, width, bias=bias, batch_first=True)
    leaves = [torch.randn(batch, steps, width + 2), torch.randn(batch, width), *peer.all_weights[0]]

    def by_torch(x: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        names = [name for name, _ in peer.named_parameters()]
        start = state.unsqueeze(0).contiguous()
        h, last = torch.func.functional_call(peer, dict(zip(names, weights, strict=True)), (x, start))
        return h, last[0]

    def by_layer(x: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return gru_layer(x, weights, state)

    wanted = with_gradients(by_torch, [leaf.double() for leaf in leaves])
    assert_all_near(with_gradients(by_layer, [leaf.to(dtype) for leaf in leaves]), wanted, tolerance)
    with without_fused_kernels():
        assert_all_near(with_gradients(by_layer, [leaf.double() for leaf in leaves]), wanted, 1e-10)


@pytest.mark.parametrize(
    ("scan", "dtype", "rounding"),
    [(cpu.gru_scan, torch.float32, 1e-6), (reference.gru_scan, torch.float64, 1e-14)],
    ids=["compiled", "plain"],
)
def test_reset_at_the_right_step(scan: Scan, dtype: torch.dtype, rounding: float) -> None:
    """Leave the weights out: z = 1/2 and n = 1: h_t = h_{t-1} / 2 + 1/2, from 0 where an episode begins."""
    gates = torch.tensor([0.0, 0.0, 50.0], dtype=dtype).repeat(1, 5, 1).requires_grad_()
    state = torch.tensor([[4.0]], dtype=dtype, requires_grad=True)
    reset = torch.tensor([[False, False, True, False, False]])
    h, last = scan(gates, torch.zeros(3, 1, dtype=dtype), None, state, reset)
    assert torch.allclose(h[0, :, 0], torch.tensor([2.5, 1.75, 0.5, 0.75, 0.875]).to(dtype), rtol=0, atol=rounding)
    dgates, dstate = torch.autograd.grad(last[0, 0], [gates, state], retain_graph=True)
    # dh/dz = (h_{t-1} - n) z (1 - z), times 1/2 for each step that follows
    assert torch.allclose(dgates[0, :, 1], torch.tensor([0, 0, -0.0625, -0.0625, -0.0625]).to(dtype), atol=rounding)
    assert torch.all(dstate == 0)
    assert torch.all(dgates[0, :2] == 0)
    assert torch.autograd.grad(h[0, 1, 0], state)[0].tolist() == [[0.25]]


def test_the_cell_runs_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count calls of torch.gru where episodes begin at different steps: none with kernels."""
    cell = CELLS["gru"](8)
    x, reset = torch.randn(3, 20, 8), torch.rand(3, 20) < 0.3
    wanted = cell.scan(x, None, reset)
    calls = []
    by_torch = torch.gru
    monkeypatch.setattr(gru.torch, "gru", lambda *arguments: (calls.append(1), by_torch(*arguments))[1])
    assert torch.equal(cell.scan(x, None, reset)[0], wanted[0])
    assert not calls
    with without_fused_kernels():
        assert_all_near(list(cell.scan(x, None, reset)), [y.double() for y in wanted], 1e-5)
    assert len(calls) > 1
