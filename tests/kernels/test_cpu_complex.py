"""The compiled complex recurrence against the loop in complex128, and under torch.compile, vmap and autograd.

Shapes: B batch, T time, D width.
"""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from minrl.kernels.scan import chunked, cpu, reference
from minrl.scan import kernel_for, linear_scan, without_fused_kernels

pytest.importorskip("numba")

Case = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def case(shape: tuple[int, int, int], least: float = 0.0, most: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw decay of modulus `least` to `most` and any phase, drive, state (complex128) and resets."""
    batch, steps, width = shape
    modulus = least + (most - least) * torch.rand(shape, dtype=torch.float64)
    decay = torch.polar(modulus, 6.28 * torch.rand(shape, dtype=torch.float64))
    reset = torch.rand(batch, steps) < 0.1
    return decay, torch.randn(shape, dtype=torch.complex128), torch.randn(batch, width, dtype=torch.complex128), reset


def everything(scan: object, inputs: Case) -> list[Tensor]:
    """Return h, the last state, and the gradients of a random real loss of both."""
    assert callable(scan)
    *tensors, reset = inputs
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in tensors]
    h, last = scan(*leaves, reset)
    torch.manual_seed(1)
    loss = (h * torch.randn(h.shape, dtype=torch.complex128).to(h.dtype)).real.sum()
    loss = loss + (last * torch.randn(last.shape, dtype=torch.complex128).to(h.dtype)).real.sum()
    return [h, last, *torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])]


def narrowed(inputs: Case, dtype: torch.dtype) -> Case:
    decay, drive, state, reset = inputs
    return decay.to(dtype), drive.to(dtype), None if state is None else state.to(dtype), reset


def assert_as_the_loop(inputs: Case, dtype: torch.dtype, tolerance: float) -> None:
    """Compare with the loop from the same rounded inputs, relative to the largest element of each."""
    inputs = narrowed(inputs, dtype)
    assert kernel_for(inputs[1]) == "cpu"
    wanted = everything(reference.linear_scan, narrowed(inputs, torch.complex128))
    for actual, exact in zip(everything(linear_scan, inputs), wanted, strict=True):
        assert actual.dtype == dtype
        assert (actual - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("width", [1, 5, 16, 128, 130, 300])
@pytest.mark.parametrize("steps", [1, 2, 65])
def test_any_shape(width: int, steps: int) -> None:
    """Scan from one lane to more than two blocks of lanes."""
    inputs = case((2, steps, width))
    assert_as_the_loop(inputs, torch.complex128, 1e-12)
    assert_as_the_loop(inputs, torch.complex64, 5e-6)


def test_without_state_or_resets_and_with_resets_everywhere() -> None:
    decay, drive, state, reset = case((2, 40, 7))
    for of_state, resets in ((None, None), (state, None), (None, reset)):
        assert_as_the_loop((decay, drive, of_state, resets), torch.complex128, 1e-12)
    h, last, ddecay, ddrive, dstate = everything(linear_scan, (decay, drive, state, torch.ones_like(reset)))
    assert torch.equal(h, drive)
    assert torch.equal(last, drive[:, -1])
    assert not ddecay.any()
    assert not dstate.any()
    assert ddrive.abs().min() > 0


@pytest.mark.parametrize("turn", [1.0, -1.0, 1j, 0.0], ids=["real", "negative", "imaginary", "zero"])
def test_decays_on_an_axis(turn: complex) -> None:
    """Treat purely real, purely imaginary and vanishing decays like any, in gradients too."""
    decay, drive, state, reset = case((2, 33, 4))
    assert_as_the_loop((decay.abs() * turn, drive, state, reset), torch.complex128, 1e-12)


def test_a_closed_form() -> None:
    """Run h_t = i h_{t-1} + 1 round a square: 1, 1 + i, i, 0."""
    ones = torch.ones(1, 8, 1, dtype=torch.complex128)
    h, last = linear_scan(1j * ones, ones)
    assert h[0, :, 0].tolist() == [1, 1 + 1j, 1j, 0] * 2
    assert last.item() == 0


def test_a_long_memory_in_complex64() -> None:
    """Compare with complex128 to 1e-5 for decays of modulus 0.9997 over 8192 steps, in outputs and gradients."""
    decay, drive, state, _ = case((1, 8192, 4), 0.9997, 0.9997)
    assert_as_the_loop((decay, drive, state, torch.rand(1, 8192) < 0.001), torch.complex64, 1e-5)


def test_gradients_against_differences() -> None:
    decay, drive, state, reset = case((2, 6, 3))
    leaves = [x.requires_grad_() for x in (decay, drive, state)]
    assert gradcheck(lambda a, b, h: linear_scan(a, b, h, reset), leaves)
    assert gradcheck(lambda a, b: linear_scan(a, b)[0], leaves[:2])


def test_one_row_of_decay_for_all_steps() -> None:
    """Expand decay over batch and time, as time-invariant cells do: equal outputs and a summed gradient."""
    _, drive, state, reset = case((3, 50, 9))
    row = case((1, 1, 9), 0.8, 0.99)[0][0, 0].requires_grad_()

    def run(decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, last = linear_scan(decay, drive, state, reset)
        return h, last, torch.autograd.grad((h * h.detach()).real.sum() + last.real.sum(), row)[0]

    for actual, wanted in zip(run(row.expand(3, 50, 9)), run(row.repeat(3, 50, 1)), strict=True):
        assert torch.allclose(actual, wanted, rtol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_ends_at_a_reset(value: float) -> None:
    decay, drive, _, _ = case((1, 6, 3))
    drive[0, 1] = value
    leaves = [decay.requires_grad_(), drive.requires_grad_()]
    reset = torch.tensor([[False, False, False, False, True, False]])
    h, _ = linear_scan(decay, drive, None, reset)
    assert not h[0, 1:4].isfinite().any()
    assert h[0, 4:].isfinite().all()
    ddecay, ddrive = torch.autograd.grad(h[0, 4:].real.sum(), leaves)
    assert torch.all(ddecay[0, 4] == 0)
    assert ddecay[0, 5].isfinite().all()
    assert ddecay[0, 5].abs().min() > 0
    assert torch.all(ddrive[0, :4] == 0)
    assert ddrive[0, 4:].abs().min() > 0


def test_views_conjugates_and_no_rows() -> None:
    decay, drive, state, reset = case((4, 20, 6))
    wanted = everything(linear_scan, (decay[::2].clone(), drive[::2].clone(), state[::2].clone(), reset[::2].clone()))
    turned = drive.transpose(0, 2).contiguous().transpose(0, 2)
    h, last = linear_scan(decay.conj().resolve_conj().conj()[::2], turned[::2], state[::2], reset[::2])
    assert torch.equal(h, wanted[0])
    assert torch.equal(last, wanted[1])
    for actual in everything(linear_scan, (decay[:0], drive[:0], state[:0], reset[:0])):
        assert actual.shape[0] == 0


def test_the_number_of_threads_has_no_effect() -> None:
    inputs = case((8, 130, 150))
    one = everything(linear_scan, inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        three = everything(linear_scan, inputs)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(one, three, strict=True):
        assert torch.equal(a, b)


def test_unsupported_inputs_run_in_torch() -> None:
    decay, drive, state, reset = case((2, 9, 4))
    wanted = chunked.linear_scan(decay, drive, state, reset)[0]
    narrow = decay.to(torch.complex64).to(torch.complex128)
    mixed = cpu.linear_scan(decay.to(torch.complex64), drive, state, reset)[0]
    assert torch.allclose(mixed, chunked.linear_scan(narrow, drive, state, reset)[0], rtol=1e-12)
    with without_fused_kernels():
        assert kernel_for(drive) == "chunked"
        assert torch.equal(linear_scan(decay, drive, state, reset)[0], wanted)
    assert kernel_for(torch.zeros(1, dtype=torch.complex64, device="meta")) == "chunked"


def test_registered_as_torch_asks() -> None:
    decay, drive, state, reset = case((2, 9, 4))
    leaves = [x.requires_grad_() for x in (decay, drive, state)]
    torch.library.opcheck(torch.ops.minrl.cpu_complex_scan.default, (*leaves, reset))


def test_compiles_to_one_graph() -> None:
    """Run forward and backward through torch.compile without a break; "aot_eager" needs no C++ compiler."""
    *tensors, reset = case((2, 20, 4))
    leaves = [x.requires_grad_() for x in tensors]

    def loss(*leaves: Tensor) -> Tensor:
        h, last = linear_scan(*leaves, reset)
        return torch.view_as_real(h).square().sum() + torch.view_as_real(last).sum()

    wanted = torch.autograd.grad(loss(*leaves), leaves)
    actual = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(*leaves), leaves)
    for a, b in zip(actual, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
