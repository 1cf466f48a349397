"""The LSTM's recurrence: torch.nn.LSTM, closed forms, episodes run apart, gradients.

Shapes: B batch, T time, D width of the input, H width.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from contract import assert_near
from torch import Tensor, nn
from torch.autograd import gradcheck

from minrl.cells import CELLS
from minrl.cells.lstm import lstm_layer
from minrl.kernels.lstm import cpu, reference

Scan = Callable[..., tuple[Tensor, Tensor]]


def lstm_scan(
    gates: Tensor, weight: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scan gates (B, T, 4H) by the compiled layer, whose weights for the input are here the identity."""
    return cpu.lstm_layer(gates, [torch.eye(weight.shape[0], dtype=gates.dtype), weight], state, reset)


WAYS: dict[str, Scan] = {"compiled": lstm_scan, "plain": reference.lstm_scan}
# Sizes of one; odd sizes, also beyond a block of rows, of eight weights and of sums; many rows.
SIZES = [(1, 1, 1), (2, 9, 3), (3, 20, 5), (1, 33, 64), (5, 6, 130), (70, 3, 17), (2, 3, 257)]
# Compiled for each precision: `make test` has the one that agents have.
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float64, 1e-10, marks=pytest.mark.slow, id="float64"),
        pytest.param(torch.float32, 1e-5, id="float32"),
    ],
)
every_way = pytest.mark.parametrize("way", WAYS)
# The precision of each way where there is one, and its rounding.
PRECISION, ROUNDING = {"compiled": torch.float32, "plain": torch.float64}, {"compiled": 1e-6, "plain": 1e-14}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def case(
    batch: int, steps: int, width: int, resets: float = 0.2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw gates, weight, state and reset, rounded to float32 so that only the arithmetic differs."""
    torch.manual_seed(batch + 10 * steps + 100 * width)
    gates = 2 * torch.randn(batch, steps, 4 * width)
    weight, state = torch.randn(4 * width, width) / width**0.5, torch.randn(batch, 2 * width)
    return gates.to(dtype), weight.to(dtype), state.to(dtype), torch.rand(batch, steps) < resets


def with_gradients(scan: Scan, leaves: list[Tensor], *rest: Tensor | None) -> list[Tensor]:
    """Return h, last and the gradients of a random loss of both to the leaves."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    h, last = scan(*leaves, *rest)
    torch.manual_seed(5)
    of_h, of_last = torch.randn(h.shape, dtype=torch.float64), torch.randn(last.shape, dtype=torch.float64)
    loss = (h * of_h.to(h)).sum() + (last * of_last.to(h)).sum()
    return [h, last, *torch.autograd.grad(loss, leaves)]


def assert_all_near(actual: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for number, (a, b) in enumerate(zip(actual, wanted, strict=True)):
        assert_near(a, b, tolerance, f"{number}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "unbiased"])
@PRECISIONS
def test_equal_to_torch(size: tuple[int, int, int], bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs, last state and the gradients to input, weights, biases and state with torch.nn.LSTM's."""
    batch, steps, width = size
    torch.manual_seed(1)
    peer = nn.LSTM(width + 2, width, bias=bias, batch_first=True)
    x, state = torch.randn(batch, steps, width + 2), torch.randn(batch, 2 * width)
    leaves = [x, state, *peer.all_weights[0]]

    def by_torch(x: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        start = tuple(part.unsqueeze(0).contiguous() for part in state.chunk(2, dim=-1))
        names = [name for name, _ in peer.named_parameters()]
        h, last = torch.func.functional_call(peer, dict(zip(names, weights, strict=True)), (x, start))
        return h, torch.cat(last, dim=-1)[0]

    def by_layer(x: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return lstm_layer(x, weights, state)

    wanted = with_gradients(by_torch, [leaf.double() for leaf in leaves])
    assert_all_near(with_gradients(by_layer, [leaf.to(dtype) for leaf in leaves]), wanted, tolerance)


@every_way
@pytest.mark.parametrize("size", SIZES)
@PRECISIONS
def test_resets_are_episodes_run_apart(
    way: str, size: tuple[int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    gates, weight, state, reset = case(*size, dtype=torch.float64)

    def apart(gates: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        rows, lasts = [], []
        for b in range(size[0]):
            bounds = sorted({0, *reset[b].nonzero().flatten().tolist(), size[1]})
            for first, end in pairwise(bounds):
                entering = state[b : b + 1] if not reset[b, first] else None
                h, last = reference.lstm_scan(gates[b : b + 1, first:end], weight, entering)
                rows.append(h[0])
            lasts.append(last)
        return torch.cat(rows).view(*reset.shape, -1), torch.cat(lasts)

    wanted = with_gradients(apart, [gates, weight, state])
    actual = with_gradients(WAYS[way], [x.to(dtype) for x in (gates, weight, state)], reset)
    assert_all_near(actual, wanted, tolerance)


@every_way
def test_reset_at_the_right_step(way: str) -> None:
    """Set gates i = f = 1/2 and o = g = 1 without weights: c_t = c_{t-1} / 2 + 1/2 and h_t = tanh(c_t)."""
    dtype, rounding = PRECISION[way], ROUNDING[way]
    gates = torch.tensor([0.0, 0.0, 50.0, 50.0], dtype=dtype).repeat(1, 5, 1).requires_grad_()
    state = torch.tensor([[9.0, 4.0]], dtype=dtype, requires_grad=True)
    reset = torch.tensor([[False, False, True, False, False]])
    h, last = WAYS[way](gates, torch.zeros(4, 1, dtype=dtype), state, reset)
    c = torch.tensor([2.5, 1.75, 0.5, 0.75, 0.875], dtype=dtype)
    assert torch.allclose(h[0, :, 0], c.tanh(), rtol=0, atol=rounding)
    assert torch.allclose(last[0], torch.stack([c[-1].tanh(), c[-1]]), rtol=0, atol=rounding)
    dgates, dstate = torch.autograd.grad(last[0, 1], [gates, state], retain_graph=True)
    # dc/df = c_{t-1} f (1 - f) = c_{t-1} / 4, times 1/2 for each step that follows
    assert torch.allclose(dgates[0, :, 1], torch.tensor([0, 0, 0, 0.0625, 0.1875]).to(dtype), rtol=0, atol=rounding)
    assert torch.all(dstate == 0)
    assert torch.all(dgates[0, :2] == 0)
    _, dstate = torch.autograd.grad(h[0, 1, 0], [gates, state])
    assert dstate[0].tolist() == pytest.approx([0.0, 0.25 * (1 - torch.tensor(1.75).double().tanh().item() ** 2)])


@every_way
def test_nan_does_not_cross_a_reset(way: str) -> None:
    """Put NaN into the state and before the reset: what follows, and its gradients, stay the same."""
    gates, weight, state, reset = case(3, 12, 9, resets=0.0, dtype=PRECISION[way])
    reset[0, 0] = reset[1:, 7] = True
    spoilt, broken = gates.clone(), state.clone()
    broken[0] = float("nan")
    spoilt[1, 2] = spoilt[2, 6] = float("nan")
    runs = []
    for g, s in ((gates, state), (spoilt, broken)):
        g, w, s = (leaf.clone().requires_grad_() for leaf in (g, weight, s))
        h, last = WAYS[way](g, w, s, reset)
        after = torch.cat([h[0], h[1, 7:], h[2, 7:], last.view(3, 2, 9).flatten(0, 1)])
        dg, ds = torch.autograd.grad(after.square().sum(), [g, s])
        runs.append((after, dg[0], dg[1:, 7:], ds[0]))
    for clean, actual in zip(*runs, strict=True):
        assert torch.equal(clean, actual)
    assert torch.all(runs[0][3] == 0)
    # A state that a reset drops has no part in the gradient to the weights.
    h, _ = WAYS[way](gates[:1], weight.requires_grad_(), broken[:1], reset[:1])
    assert torch.autograd.grad(h.sum(), weight)[0].isfinite().all()


@pytest.mark.parametrize("way", [pytest.param("compiled", marks=pytest.mark.slow), "plain"])
@pytest.mark.parametrize("outputs", [*(pytest.param(o, marks=pytest.mark.slow) for o in ("h", "last")), "both"])
def test_gradients_against_differences(way: str, outputs: str) -> None:
    gates, weight, state, reset = case(3, 6, 3, dtype=torch.float64)
    leaves = [leaf.requires_grad_() for leaf in (gates, weight, state)]
    chosen = {"h": slice(0, 1), "last": slice(1, 2), "both": slice(0, 2)}[outputs]
    assert reset[:, 1:].any()
    assert gradcheck(lambda *leaves: WAYS[way](*leaves, reset)[chosen], leaves)
    assert gradcheck(lambda *leaves: WAYS[way](*leaves)[chosen], leaves[:2])


def test_any_cut_gives_the_same() -> None:
    gates, weight, state, reset = case(3, 40, 20, resets=0.1)

    def cut(gates: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        pieces = []
        for first, end in pairwise((0, 1, 2, 17, 40)):
            h, state = lstm_scan(gates[:, first:end], weight, state, reset[:, first:end])
            pieces.append(h)
        return torch.cat(pieces, dim=1), state

    wanted = with_gradients(reference.lstm_scan, [x.double() for x in (gates, weight, state)], reset)
    assert_all_near(with_gradients(cut, [gates, weight, state]), wanted, 1e-5)


def test_threads_share_the_rows(threads: Callable[[int], None]) -> None:
    gates, weight, state, reset = case(7, 40, 128)
    threads(1)
    wanted = with_gradients(lstm_scan, [gates, weight, state], reset)
    threads(3)
    assert_all_near(with_gradients(lstm_scan, [gates, weight, state], reset), wanted, 1e-5)


@every_way
def test_inputs_are_not_overwritten(way: str) -> None:
    """Run forward and backward twice, and compare inputs, outputs and gradients."""
    gates, weight, state, reset = case(3, 8, 5, dtype=PRECISION[way])
    copies = [leaf.clone() for leaf in (gates, weight, state)]
    leaves = [leaf.requires_grad_() for leaf in (gates, weight, state)]
    h, last = WAYS[way](*leaves, reset)
    loss = h.square().sum() + last.sum()
    first, again = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    for a, b in zip((*first, *copies), (*again, *leaves), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        alone = WAYS[way](*leaves, reset)
    assert torch.equal(alone[0], h)
    assert torch.equal(alone[1], last)
    assert torch.equal(gates, copies[0])


def test_strided_tensors() -> None:
    """Scan time-major rollouts, a slice of a wider state, transposed weights, and expanded gradients."""
    gates, weight, state, reset = case(3, 8, 5)
    wanted = with_gradients(lstm_scan, [gates, weight, state], reset)
    stored = gates.transpose(0, 1).contiguous().transpose(0, 1)
    wide, turned = torch.cat([state, state], dim=1)[:, 10:], weight.T.contiguous().T
    h, last = lstm_scan(stored.requires_grad_(), turned.requires_grad_(), wide, reset.T.contiguous().T)
    assert_all_near([h, last], wanted[:2], 1e-6)
    (of_sum,) = torch.autograd.grad(h.sum(), stored)
    h, _ = lstm_scan(gates.requires_grad_(), weight, state, reset)
    assert_near(of_sum, torch.autograd.grad(h.sum(), gates)[0], 1e-6, "of a sum")


@PRECISIONS
def test_saturated_gates(dtype: torch.dtype, tolerance: float) -> None:
    """Carry or replace c exactly far outside the range of the exponential, where the gates are 0 or 1."""
    far = torch.tensor([-1e4, 1e4, 1e4, 1e4, 1e4, -1e4, -1e4, 1e4], dtype=dtype).view(1, 2, 4)
    state = torch.tensor([[0.0, 0.7]], dtype=dtype)
    h, last = lstm_scan(far, torch.zeros(4, 1, dtype=dtype), state)
    assert h[0, :, 0].tolist() == pytest.approx([torch.tensor(0.7).tanh().item(), -torch.tensor(1.0).tanh().item()])
    assert last[0, 1].item() == pytest.approx(-1.0, abs=tolerance)


@pytest.mark.parametrize("resets", ["nowhere", "first", "inside"])
def test_the_layer_by_torch_and_by_the_kernel(resets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the kernel with torch's LSTM, which runs on a GPU, without numba and, for some sizes, without resets."""
    torch.manual_seed(0)
    cell = CELLS["lstm"](128)
    reset = torch.zeros(8, 130, dtype=torch.bool)
    reset[3, 0], reset[5, 77] = resets != "nowhere", resets == "inside"
    leaves = [torch.randn(8, 130, 128), torch.randn(8, 256), *cell.lstm.parameters()]

    def run(layer: Scan) -> list[Tensor]:
        return with_gradients(lambda x, state, *weights: layer(x, weights, state, reset), leaves)

    wanted = run(cpu.lstm_layer)
    assert_all_near(run(lstm_layer), wanted, 1e-5)
    monkeypatch.setattr(cpu, "takes", lambda x: False)
    assert_all_near(run(lstm_layer), wanted, 1e-5)


def test_functional_gradients_of_the_cell() -> None:
    """Run in torch's operations under torch.func, for which there is no kernel."""
    cell = CELLS["lstm"](8)
    x, reset = torch.randn(2, 9, 8), torch.rand(2, 9) < 0.2
    actual = torch.func.grad(lambda x: cell.scan(x, None, reset)[0].square().sum())(x)
    x.requires_grad_()
    (wanted,) = torch.autograd.grad(cell.scan(x, None, reset)[0].square().sum(), x)
    assert_near(actual, wanted.double(), 1e-5, "dx")


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("state", "reset", "message"),
    [
        (zeros(2, 3), None, r"state must be torch\.float32 of shape \(2, 6\) on the CPU, got torch\.float32 \(2, 3\)"),
        (None, zeros(2, 4).bool(), r"reset must be torch\.bool of shape \(2, 5\) on the CPU, got torch\.bool \(2, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(state: Tensor | None, reset: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lstm_layer(zeros(2, 5, 4), [zeros(12, 4), zeros(12, 3)], state, reset)
