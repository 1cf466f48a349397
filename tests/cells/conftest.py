"""Precision in which cells are compared with their papers."""

from collections.abc import Iterator

import pytest
import torch

from minrl.scan import without_fused_kernels


@pytest.fixture(autouse=True)
def float64_in_torch(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run cases with `dtype` float64 in torch's operations.

    Compiled anew for float64 the kernels take 20 CPU seconds; `test_all_ways_agree_in_kernels_of_float64` has them.
    """
    case = getattr(request.node, "callspec", None)
    if case is None or case.params.get("dtype") is not torch.float64:
        yield
        return
    with without_fused_kernels():
        yield
