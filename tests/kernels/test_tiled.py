"""A layer tiled over matmul and recurrence, against one after the other.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from minrl.cells import CELLS, Cell
from minrl.kernels.scan import cpu_tiled

WIDTH = 16
# Whole sequences, with a last tile that is smaller; one sequence in pieces, in uneven ones; pieces of several.
SHAPES = [(40, 20), (9, 33), (1, 512), (1, 700), (5, 301)]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "signed": {"signed": True},
    "tanh": {"candidate": "tanh"},
    "linear": {"candidate": "linear"},
    "unbiased": {"bias": False},
    "wide": {"expand": 2.0},
    "narrow": {"expand": 0.5},
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_tiled, "TILE", 1 << 10)


def inputs(batch: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    x, state = torch.randn(batch, steps, WIDTH, requires_grad=True), torch.randn(batch, WIDTH, requires_grad=True)
    return x, state, torch.rand(batch, steps) < 0.05


def results(cell: Cell, x: Tensor, state: Tensor, reset: Tensor | None) -> list[Tensor]:
    """Return outputs, last state, and all gradients from random directions."""
    y, last = cell.scan(x, state, reset)
    draw = torch.Generator().manual_seed(1)
    directions = [torch.randn(part.shape, generator=draw).to(part.dtype) for part in (y, last)]
    return [y, last, *torch.autograd.grad([y, last], [x, state, *cell.parameters()], directions)]


def untiled(run: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(cpu_tiled, "takes", lambda layer, x: False)
        return run()


def assert_taken(cell: Any, x: Tensor) -> None:
    assert cpu_tiled.takes(cell.gates, x)


# Every shape, and every option, with and without resets.
@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize(
    ("shape", "options"),
    [*((shape, {}) for shape in SHAPES), *((SHAPES[-1], options) for options in CASES.values() if options)],
)
@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_tiles_equal_matmul_and_scan(
    name: str, options: dict[str, Any], shape: tuple[int, int], resets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare outputs and gradients through time to the bit, and sums over rows to rounding."""
    torch.manual_seed(0)
    cell = CELLS[name](WIDTH, **options)
    x, _, reset = inputs(*shape)
    state = torch.randn(shape[0], cell.state_size, requires_grad=True)
    assert_taken(cell, x)
    actual = results(cell, x, state, reset if resets else None)
    wanted = untiled(lambda: results(cell, x, state, reset if resets else None), monkeypatch)
    for a, b in zip(actual[:2], wanted[:2], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(actual[2:], wanted[2:], strict=True):
        assert (a - b).abs().max() <= 2e-6 * b.abs().max()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("asks", ["everything", "x alone", "weights alone"])
@pytest.mark.parametrize("shape", [(40, 50), (9, 301), (8, 512)])
@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_threads_share_the_sequences(
    name: str, shape: tuple[int, int], asks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with one thread to the bit, and leave torch its own threads."""
    cell = CELLS[name](WIDTH).requires_grad_(asks != "x alone")
    x, state, reset = inputs(*shape)
    x.requires_grad_(asks != "weights alone")
    assert_taken(cell, x)

    def run() -> list[Tensor]:
        cell.zero_grad()
        x.grad = None
        y, last = cell.scan(x, state, reset)
        (y.square().sum() + last.sum()).backward()
        return [y, last, *(t.grad for t in (x, *cell.parameters()) if t.grad is not None)]

    actual = run()
    assert torch.get_num_threads() == 2
    wanted = untiled(run, monkeypatch)
    assert len(actual) == len(wanted) == {"everything": 5, "x alone": 3, "weights alone": 4}[asks]
    for a, b in zip(actual[:2], wanted[:2], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(actual[2:], wanted[2:], strict=True):
        assert (a - b).abs().max() <= 3e-6 * b.abs().max()
    for again in (run(), run()):
        assert all(map(torch.equal, again, actual))


@pytest.mark.usefixtures("two_threads")
def test_threads_keep_inference_mode() -> None:
    """Write to tensors of inference mode, which is only allowed within it."""
    cell, (x, state, reset) = CELLS["mingru"](WIDTH), inputs(16, 301)
    with torch.inference_mode():
        y, last = cell.scan(x, state, reset)
    expected, expected_last = cell.scan(x, state, reset)
    assert torch.equal(y, expected)
    assert torch.equal(last, expected_last)


@pytest.mark.usefixtures("two_threads")
def test_few_sequences_are_not_shared_out() -> None:
    cell: Any = CELLS["mingru"](WIDTH)
    assert cpu_tiled.takes(cell.gates, torch.randn(8, 700, WIDTH))
    assert not cpu_tiled.takes(cell.gates, torch.randn(7, 700, WIDTH))
    assert not cpu_tiled.takes(cell.gates, torch.randn(8, 60, WIDTH))


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_in_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CELLS[name](WIDTH).double()
    x, state, reset = inputs(5, 301)
    x, state = x.detach().double().requires_grad_(), state.detach().double().requires_grad_()
    assert_taken(cell, x)
    actual = results(cell, x, state, reset)
    for a, b in zip(actual, untiled(lambda: results(cell, x, state, reset), monkeypatch), strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


def test_inputs_that_do_not_lie_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CELLS["mingru"](WIDTH)
    x = torch.randn(301, 7, 2 * WIDTH)[:, ::2, ::2].transpose(0, 1).requires_grad_()
    state, reset = torch.randn(WIDTH, 4, requires_grad=True).t(), (torch.rand(301, 4) < 0.05).t()
    state.retain_grad()
    assert_taken(cell, x)
    actual = results(cell, x, state, reset)
    for a, b in zip(actual, untiled(lambda: results(cell, x, state, reset), monkeypatch), strict=True):
        assert (a - b).abs().max() <= 2e-6 * b.abs().max()


def test_without_gradients_no_gates_are_kept() -> None:
    cell, (x, state, reset) = CELLS["mingru"](WIDTH), inputs(5, 301)
    y, last = cell.scan(x, state, reset)
    assert y.grad_fn is not None
    with torch.no_grad():
        again, last_again = cell.scan(x, state, reset)
    assert torch.equal(again, y)
    assert torch.equal(last_again, last)
    frozen = cell.requires_grad_(False)
    assert frozen.scan(x.detach(), state.detach(), reset)[0].grad_fn is None


def test_only_required_gradients_are_computed() -> None:
    cell, (x, state, reset) = CELLS["mingru"](WIDTH).requires_grad_(False), inputs(5, 301)
    cell.scan(x, state.detach(), reset)[0].sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in cell.parameters())


def test_an_output_changed_in_place_is_noticed() -> None:
    """Raise torch's error, as the gradient needs the old output."""
    cell, (x, state, reset) = CELLS["mingru"](WIDTH), inputs(5, 301)
    y, _ = cell.scan(x, state, reset)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_hooked_or_shared_layers_are_not_tiled() -> None:
    cell: Any = CELLS["mingru"](WIDTH)
    x, _, _ = inputs(5, 301)
    assert_taken(cell, x)
    assert not cpu_tiled.takes(cell.gates, x[:1, :20])
    with torch.autocast("cpu", torch.bfloat16):
        assert not cpu_tiled.takes(cell.gates, x)
    seen: list[int] = []
    handle = cell.gates.register_forward_hook(lambda module, given, output: seen.append(1))
    assert not cpu_tiled.takes(cell.gates, x)
    cell.scan(x)
    assert seen == [1]
    handle.remove()
    assert_taken(cell, x)


@pytest.mark.parametrize(("state", "reset"), [((5, 3), None), (None, (5, 300)), (None, (300, 5))])
def test_shapes_that_do_not_fit(state: tuple[int, ...] | None, reset: tuple[int, ...] | None) -> None:
    cell, (x, _, _) = CELLS["mingru"](WIDTH), inputs(5, 301)
    with pytest.raises(ValueError, match="state must be" if state else "reset must be"):
        cell.scan(
            x, None if state is None else torch.zeros(state), None if reset is None else torch.zeros(reset).bool()
        )
