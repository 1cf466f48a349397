"""Gates of minGRU and minLSTM that reach 0, in the compiled CPU kernels."""

import pytest
import torch
from test_cpu_kernel import SCANS, assert_as_the_loop, case, every_precision

pytest.importorskip("numba")

# Kernels of minLSTM's are compiled for 20 seconds.
BOTH_KINDS = [2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.mark.parametrize("parts", BOTH_KINDS)
@every_precision
def test_hard_gates(parts: int, dtype: torch.dtype) -> None:
    """Scan gates that are closed, between and open, a forget gate of minLSTM's that is 0 in float32 among them."""
    gates, state, reset = case(parts, (3, 40, 9), scale=4.0)
    gates[..., 0] = -200.0
    assert_as_the_loop(parts, dtype, (gates, state, reset), hard=True)


@every_precision
@pytest.mark.parametrize("parts", BOTH_KINDS)
def test_a_closed_hard_gate_holds_the_state_to_the_bit(parts: int, dtype: torch.dtype) -> None:
    gates, state, _ = case(parts, (2, 10_000, 5), scale=3.0)
    gates[..., 5 * (parts - 2) : 5 * (parts - 1)] = -3.0
    h, last = SCANS[parts](gates.to(dtype), state.to(dtype), hard=True)
    assert torch.equal(h, state.to(dtype).unsqueeze(1).expand_as(h))
    assert torch.equal(last, state.to(dtype))
