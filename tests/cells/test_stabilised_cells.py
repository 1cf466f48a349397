"""Cells with matrix states and exponential gates under large inputs, NaN and infinity.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from contract import WAYS, assert_near
from torch.overrides import TorchFunctionMode

from minrl.cells import CELLS, nan_masks
from minrl.scan import without_fused_kernels

WIDTH, BATCH, STEPS = 16, 3, 70
NAMES = ("aaren", "mamba2", "mlstm", "slstm", "rwkv4", "rwkv6")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["scan", "steps", "cuts"])
def test_inputs_of_a_hundred(name: str, way: str) -> None:
    """Compare float32 with float64 to 1e-5, without overflow forward or backward."""
    model = CELLS[name](WIDTH)
    exact = CELLS[name](WIDTH).double()
    exact.load_state_dict(model.state_dict())
    x = (100 * torch.randn(BATCH, STEPS, WIDTH).sign()).requires_grad_()
    reset = torch.rand(BATCH, STEPS) < 0.05
    y, last = WAYS[way](model, x, model.initial_state(BATCH), reset)
    gradients = torch.autograd.grad(y.square().sum() + last.square().sum(), [x, *model.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    with torch.no_grad():
        wanted, left = WAYS["steps"](exact, x.double(), exact.initial_state(BATCH), reset)
    assert_near(y, wanted, 1e-5, "y")
    assert_near(last, left, 1e-5, "last")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_stays_in_its_episode(name: str, value: float) -> None:
    """Put it into an input or a state: it shows in no other row and not beyond the next reset."""
    model = CELLS[name](WIDTH)
    x, state = torch.randn(BATCH, STEPS, WIDTH), model.scan(torch.randn(BATCH, 9, WIDTH))[1].detach()
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    reset[0, [10, 45]] = reset[1, 3] = True
    wanted, left = model.scan(x, state, reset)
    x[0, 6], state[1] = value, value
    with torch.no_grad():
        y, last = model.scan(x, state, reset)
    seen = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    seen[0, 6:10] = seen[1, :3] = True
    assert not y[seen].isfinite().all(dim=-1).any()
    assert torch.allclose(y[~seen], wanted[~seen], atol=1e-5)
    assert torch.allclose(last, left, atol=1e-5)


def reached_by_hand(faulty: np.ndarray, memory: np.ndarray, reset: np.ndarray) -> np.ndarray:
    """Walk along each row: a reset clears what a faulty step or memory has spoiled."""
    spoiled = np.zeros_like(faulty)
    for row, now in enumerate(memory):
        for step in range(faulty.shape[1]):
            now = (now and not reset[row, step]) or faulty[row, step]
            spoiled[row, step] = now
    return spoiled


@pytest.mark.parametrize("form", [nan_masks.reached, nan_masks._reached_pairwise], ids=["cumulative", "pairwise"])
def test_a_faulty_step_reaches_the_end_of_its_episode(form: Callable[..., torch.Tensor]) -> None:
    draw = np.random.default_rng(0)
    faulty, reset, memory = draw.random((64, 12)) < 0.1, draw.random((64, 12)) < 0.2, draw.random(64) < 0.3
    result = form(torch.from_numpy(faulty), torch.from_numpy(memory), torch.from_numpy(reset))
    np.testing.assert_array_equal(result.numpy(), reached_by_hand(faulty, memory, reset))


class NothingIsRead(TorchFunctionMode):
    """Mode that fails where a value is read from a tensor."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = getattr(func, "__name__", "")
        assert name not in {"item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__"}, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_value_is_read_to_the_host(name: str) -> None:
    """Require it, so that a GPU can record the scan and its backward pass in a graph."""
    assert not CELLS[name].reads_back
    model = CELLS[name](WIDTH)
    x, reset = torch.randn(BATCH, STEPS, WIDTH), torch.rand(BATCH, STEPS) < 0.05
    with NothingIsRead(), without_fused_kernels():
        y, _ = model.scan(x, model.initial_state(BATCH), reset)
        y.sum().backward()
        with pytest.raises(AssertionError, match="item"):
            y[0, 0, 0].item()
