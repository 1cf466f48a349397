"""Contract of compiled recurrences: each equals its own equations in torch's operations, episode by episode.

Shapes: B batch, T time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from contract import assert_near
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from minrl.kernels.convolution.cpu import causal_convolution
from minrl.kernels.gru.cpu import gru_scan
from minrl.kernels.matrix.cpu import matrix_scan, matrix_scan_before
from minrl.kernels.recurrence import Recurrence
from minrl.kernels.s4d.cpu import s4d_scan
from minrl.kernels.selective.cpu import selective_scan
from minrl.kernels.slstm.cpu import slstm_scan

pytest.importorskip("numba")

Scan = Callable[..., tuple[Tensor, ...]]
Drawn = tuple[list[Tensor], list[Tensor], Tensor]
# The kernels are compiled for each precision, which takes a minute: `make test` has the one that agents have.
PRECISIONS = [pytest.param(torch.float64, marks=pytest.mark.slow), torch.float32]
every_precision = pytest.mark.parametrize("dtype", PRECISIONS, ids=["float64", "float32"])
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@dataclass(frozen=True)
class Case:
    """Recurrence with a function that draws its sequences (B, T, …), parameters and initial state (B, …)."""

    recurrence: Recurrence
    draw: Callable[..., Drawn]  # of batch, steps and a size
    sizes: tuple[tuple[int, int, int], ...]
    # True if the last state is in a unit that takes no gradient, so that its gradients are not its differences.
    has_unit: bool = False


def _gru(batch: int, steps: int, width: int) -> Drawn:
    weight = torch.randn(3 * width, width) / width**0.5
    return [2 * torch.randn(batch, steps, 3 * width)], [weight, torch.randn(3 * width)], torch.randn(batch, width)


def _slstm(batch: int, steps: int, size: int, heads: int = 2) -> Drawn:
    gates, weight = 2 * torch.randn(batch, steps, heads, 4 * size), torch.randn(heads, size, 4 * size) / size**0.5
    state = slstm_scan.in_torch(torch.randn(batch, 3, heads, 4 * size), weight)[1]
    state[2:3] = 0.0  # the zero state
    return [gates], [weight], state


def _matrix(batch: int, steps: int, size: int, width: int = 6, *, shared: bool = False, vector: bool = False) -> Drawn:
    heads = 3
    query, key = torch.randn(2, batch, steps, 1 if shared else heads, size) / size**0.5
    value, decay = torch.randn(batch, steps, heads, width), torch.rand(batch, steps, heads, size if vector else 1)
    return [query, key, value, decay], [], torch.randn(batch, heads * size * width)


def _selective(batch: int, steps: int, width: int, states: int = 3) -> Drawn:
    b, c = torch.randn(2, batch, steps, states)
    dt, drive = torch.rand(batch, steps, width), torch.randn(batch, steps, width)
    return [dt, drive, b, c], [-5 * torch.rand(width, states)], torch.randn(batch, width * states)


def _s4d(batch: int, steps: int, width: int, states: int = 3) -> Drawn:
    decay, factor, c = torch.randn(3, width, states, 2)
    state = torch.randn(batch, width * states * 2)
    return [torch.randn(batch, steps, width)], [0.5 * decay, factor, c], state


def _convolution(batch: int, steps: int, width: int) -> Drawn:
    x, weight = torch.randn(batch, steps, width), torch.randn(4, width)
    return [x], [weight, torch.randn(width)], torch.randn(batch, 3 * width)


_MATRICES = ((1, 1, 1), (2, 37, 5), (1, 16, 64), (3, 17, 20))
_BLOCKS = ((1, 1, 1), (2, 37, 5), (1, 16, 64), (3, 17, 130))
# Sizes of one; odd ones, also beyond a block of rows, of eight weights, of sums and of steps; many rows.
CASES = {
    "gru": Case(gru_scan, _gru, ((1, 1, 1), (2, 9, 3), (1, 33, 64), (5, 6, 130), (70, 3, 17), (2, 3, 257))),
    "slstm": Case(slstm_scan, _slstm, ((1, 1, 1), (2, 9, 3), (1, 33, 32), (5, 6, 65), (70, 3, 9)), has_unit=True),
    "matrix": Case(matrix_scan, _matrix, _MATRICES),
    "matrix, one key for all heads": Case(matrix_scan, partial(_matrix, shared=True, width=5), _MATRICES),
    "matrix, a decay for each feature": Case(matrix_scan, partial(_matrix, vector=True), _MATRICES),
    "matrix, read before": Case(matrix_scan_before, partial(_matrix, vector=True, width=7), _MATRICES),
    "selective": Case(selective_scan, _selective, _BLOCKS),
    "s4d": Case(s4d_scan, _s4d, _BLOCKS),
    "convolution": Case(causal_convolution, _convolution, (*_BLOCKS, (2, 67, 3), (5, 2, 4))),
}
SIZED = [(name, size) for name, case in CASES.items() for size in case.sizes]
every_size = pytest.mark.parametrize(("name", "size"), SIZED, ids=[f"{name}-{size}" for name, size in SIZED])
every_one = pytest.mark.parametrize("name", CASES)


def every_case(test: Callable[..., None]) -> Any:
    return every_one(every_precision(test))


def drawn(
    name: str, size: tuple[int, int, int], resets: float = 0.2, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Tensor, int]:
    """Return all inputs but the reset, the reset, and how many of the inputs are sequences.

    They are rounded to float32 so that only the arithmetic differs.
    """
    torch.manual_seed(size[0] + 10 * size[1] + 100 * size[2])
    reset = torch.rand(size[0], size[1]) < resets
    sequences, parameters, state = CASES[name].draw(*size)
    return [leaf.float().to(dtype) for leaf in (*sequences, *parameters, state)], reset, len(sequences)


def with_gradients(scan: Scan, leaves: list[Tensor], *rest: Tensor | None) -> list[Tensor]:
    """Return outputs, and the gradients of a random loss of them to the leaves."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    outputs = scan(*leaves, *rest)
    torch.manual_seed(5)
    loss = sum((y * torch.randn(y.shape, dtype=torch.float64).to(y)).sum() for y in outputs)
    return [*outputs, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def assert_all_near(actual: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for number, (a, b) in enumerate(zip(actual, wanted, strict=True)):
        assert_near(a, b, tolerance, f"{number}")


@every_size
@every_precision
def test_resets_are_episodes_run_apart(name: str, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    leaves, reset, sequences = drawn(name, size)

    def apart(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        rows, lasts = [], []
        for b in range(size[0]):
            outputs = []
            bounds = sorted({0, *reset[b].nonzero().flatten().tolist(), size[1]})
            for first, end in pairwise(bounds):
                pieces = [leaf[b : b + 1, first:end] for leaf in leaves[:sequences]]
                entering = leaves[-1][b : b + 1] if not reset[b, first] else torch.zeros_like(leaves[-1][b : b + 1])
                y, last = CASES[name].recurrence.in_torch(*pieces, *leaves[sequences:-1], entering, None)
                outputs.append(y)
            rows.append(torch.cat(outputs, dim=1))
            lasts.append(last)
        return torch.cat(rows), torch.cat(lasts)

    recurrence = CASES[name].recurrence
    wanted = with_gradients(apart, leaves)
    assert_all_near(with_gradients(recurrence.in_torch, leaves, reset), wanted, 1e-10)
    assert_all_near(with_gradients(recurrence, [x.to(dtype) for x in leaves], reset), wanted, TOLERANCE[dtype])


@every_size
@every_precision
def test_without_state_or_reset(name: str, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    leaves, _, _ = drawn(name, size)
    recurrence = CASES[name].recurrence
    for state in ([], [leaves[-1]]):
        rest = [None] if state else [None, None]
        inputs = [*leaves[:-1], *state]
        wanted = with_gradients(recurrence.in_torch, inputs, *rest)
        actual = with_gradients(recurrence, [leaf.to(dtype) for leaf in inputs], *rest)
        assert_all_near(actual, wanted, TOLERANCE[dtype])


@every_case
def test_nothing_leaks_through_a_reset(name: str, dtype: torch.dtype) -> None:
    """Put NaN in the state and before the reset: outputs that follow and gradients to them are equal to the bit."""
    leaves, reset, sequences = drawn(name, (3, 22, 9), resets=0.0, dtype=dtype)
    reset[0, 0] = reset[1:, 17] = True
    spoilt = [leaf.clone() for leaf in leaves]
    spoilt[-1][0] = float("nan")
    for leaf in spoilt[:sequences]:
        leaf[1, 2] = leaf[2, 16] = float("nan")
    runs = []
    for inputs in (leaves, spoilt):
        inputs = [leaf.clone().requires_grad_() for leaf in inputs]
        y, last = CASES[name].recurrence(*inputs, reset)
        after = torch.cat([part.flatten() for part in (y[0], y[1, 17:], y[2, 17:], last)])
        found = torch.autograd.grad(after.square().sum(), [*inputs[:sequences], inputs[-1]])
        runs.append([after, found[-1][0], *(part for dx in found[:-1] for part in (dx[0], dx[1:, 17:]))])
    for clean, actual in zip(*runs, strict=True):
        assert torch.equal(clean, actual)
    assert torch.all(runs[0][1] == 0)


@every_case
def test_gradients_of_a_forgotten_state_that_is_not_finite(name: str, dtype: torch.dtype) -> None:
    leaves, reset, _ = drawn(name, (1, 6, 5), resets=0.0, dtype=dtype)
    reset[0, 0] = True
    leaves[-1][:] = float("nan")
    leaves = [leaf.requires_grad_() for leaf in leaves]
    y, last = CASES[name].recurrence(*leaves, reset)
    for found in torch.autograd.grad(y.sum() + last.sum(), leaves[: len(leaves) - 1]):
        assert found.isfinite().all()


@pytest.mark.slow
@every_one
def test_derivatives_against_differences(name: str) -> None:
    leaves, reset, _ = drawn(name, (2, 6, 3))
    leaves = [leaf.requires_grad_() for leaf in leaves]
    recurrence, has_unit = CASES[name].recurrence, CASES[name].has_unit
    assert reset[:, 1:].any()
    for chosen in (slice(0, 1),) if has_unit else (slice(0, 1), slice(1, 2), slice(0, 2)):
        assert gradcheck(lambda *leaves, chosen=chosen: recurrence(*leaves, reset)[chosen], leaves, fast_mode=True)
    assert gradgradcheck(lambda *leaves: recurrence(*leaves, reset)[: 1 if has_unit else 2], leaves, fast_mode=True)


@every_case
def test_any_cut_gives_the_same(name: str, dtype: torch.dtype) -> None:
    leaves, reset, sequences = drawn(name, (3, 40, 20), resets=0.1, dtype=dtype)
    recurrence = CASES[name].recurrence

    def cut(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        pieces, state = [], leaves[-1]
        for first, end in pairwise((0, 1, 2, 17, 40)):
            now = [leaf[:, first:end] for leaf in leaves[:sequences]]
            y, state = recurrence(*now, *leaves[sequences:-1], state, reset[:, first:end])
            pieces.append(y)
        return torch.cat(pieces, dim=1), state

    assert_all_near(with_gradients(cut, leaves), with_gradients(recurrence, leaves, reset), TOLERANCE[dtype])


@every_case
def test_threads_share_the_rows(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, reset, _ = drawn(name, (7, 20, 24), dtype=dtype)
    recurrence = CASES[name].recurrence
    wanted = with_gradients(recurrence, leaves, reset)
    monkeypatch.setattr("minrl.kernels.recurrence.WORK_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        actual = with_gradients(recurrence, leaves, reset)
    finally:
        torch.set_num_threads(before)
    assert_all_near(actual, wanted, TOLERANCE[dtype])


@every_case
def test_inputs_stay_as_they_are(name: str, dtype: torch.dtype) -> None:
    """Check that neither pass writes over its inputs or over tensors that it saved."""
    leaves, reset, _ = drawn(name, (3, 19, 5), dtype=dtype)
    copies = [leaf.clone() for leaf in leaves]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    y, last = CASES[name].recurrence(*leaves, reset)
    loss = y.square().sum() + last.sum()
    first, again = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    for a, b in zip((*first, *copies), (*again, *leaves), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        alone = CASES[name].recurrence(*leaves, reset)
    assert torch.equal(alone[0], y)
    assert torch.equal(alone[1], last)


@every_case
def test_strided_tensors(name: str, dtype: torch.dtype) -> None:
    """Pass time-major rollouts, columns of a wider state, transposed parameters and expanded gradients."""
    leaves, reset, sequences = drawn(name, (3, 8, 5), dtype=dtype)
    recurrence = CASES[name].recurrence
    wanted = with_gradients(recurrence, leaves, reset)
    turned = [leaf.transpose(0, 1).contiguous().transpose(0, 1) for leaf in leaves[:sequences]]
    turned += [leaf.mT.contiguous().mT if leaf.dim() > 1 else leaf for leaf in leaves[sequences:-1]]
    wide = torch.cat([leaves[-1], leaves[-1]], dim=1)[:, leaves[-1].shape[1] :]
    turned = [leaf.requires_grad_() for leaf in turned]
    y, last = recurrence(*turned, wide, reset.T.contiguous().T)
    assert_all_near([y, last], wanted[:2], TOLERANCE[dtype])
    of_sum = torch.autograd.grad(y.sum(), turned)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    found = torch.autograd.grad(recurrence(*leaves, reset)[0].sum(), leaves[:-1])
    assert_all_near(list(of_sum), list(found), TOLERANCE[dtype])


@every_case
def test_many_gradients_at_once(name: str, dtype: torch.dtype) -> None:
    leaves, reset, _ = drawn(name, (2, 5, 3), dtype=dtype)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    y, _ = CASES[name].recurrence(*leaves, reset)
    directions = torch.randn(3, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, leaves, directions, is_grads_batched=True, retain_graph=True)
    for number, direction in enumerate(directions):
        apart = torch.autograd.grad(y, leaves, direction, retain_graph=True)
        assert_all_near([dx[number] for dx in together], list(apart), TOLERANCE[dtype])


@every_case
def test_the_kernel_reads_nothing_that_is_not_there(name: str, dtype: torch.dtype) -> None:
    leaves, reset, _ = drawn(name, (2, 5, 3), dtype=dtype)
    recurrence = CASES[name].recurrence
    with pytest.raises(ValueError, match=rf"state must be {dtype} of shape \(2, .* on the CPU, got"):
        recurrence(*leaves[:-1], leaves[-1][:1], reset)
    with pytest.raises(ValueError, match=r"reset must be torch\.bool of shape \(2, 5\) on the CPU, got"):
        recurrence(*leaves, reset[:, :4])
