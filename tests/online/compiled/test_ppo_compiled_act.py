"""Acting by one compiled call against the policy in torch's operations: actions, values, likelihoods and states."""

import numpy as np
import pytest
import torch
from compiled_cases import CASES, ready

from minrl.kernels.guard import without_fused_kernels
from minrl.online.compiled.act import compiled_act, step


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_the_policys(name: str) -> None:
    model = ready(name)
    policy, size = model.policy, 5
    generator = np.random.default_rng(0)
    compiled = compiled_act(policy)
    assert compiled is not None
    states = [torch.from_numpy(generator.normal(size=(size, policy.state_size)).astype(np.float32))] * 2
    previous = torch.from_numpy(generator.normal(size=(size, policy.previous_size)).astype(np.float32))
    for _ in range(4):
        observations = generator.uniform(-1, 1, (size, 3)).astype(np.float32)
        starts, results = generator.random(size) < 0.3, []
        for i, kernel in enumerate((None, compiled)):
            torch.manual_seed(1)
            with without_fused_kernels():
                found = step(policy, observations, states[i], starts, previous, kernel)
            results.append((*found, torch.rand(1)))
            states[i] = found[3]
        for first, second in zip(*results, strict=True):
            assert first.shape == second.shape
            assert first.dtype == second.dtype
            torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5)
