"""Acting by one compiled call against the policy in torch's operations: actions, values, likelihoods and states."""

from typing import Any

import numpy as np
import pytest
import torch
from compiled_cases import CASES, ready

from minrl.kernels.guard import without_fused_kernels
from minrl.online.compiled.act import compiled_act, predict, step


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


@pytest.mark.parametrize("name", ["plain", "mlp", "separate critic", "layers", "lstm", "lstm, two layers"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_is_the_policys(name: str, deterministic: bool) -> None:
    policy = ready(name).policy
    generator = np.random.default_rng(0)
    states: list[Any] = [None, None]
    for count in (0, 0, 0):  # one observation without an axis for several
        observation = generator.uniform(-1, 1, (count, 3) if count else (3,)).astype(np.float32)
        results = []
        for i, run in enumerate((type(policy).predict, predict)):
            torch.manual_seed(2)
            rest = (None,) if i else ()
            start = np.array([True]) if states[i] is None else None
            action, states[i] = run(policy, observation, states[i], start, deterministic, *rest)
            results.append(action)
        np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)
        assert results[0].dtype == results[1].dtype
        assert np.shape(results[0]) == np.shape(results[1])
        for first, second in zip(*states, strict=True):
            assert first.shape == second.shape
            np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)


def test_predict_refuses_what_does_not_fit() -> None:
    policy = ready("plain").policy
    with pytest.raises(ValueError, match="episode_start"):
        predict(policy, np.zeros((2, 3), np.float32), None, np.zeros(3, bool), True, None)
    with pytest.raises(ValueError, match="state"):
        predict(policy, np.zeros((2, 3), np.float32), (np.zeros((3, 1), np.float32),), None, True, None)
    with pytest.raises(ValueError, match="shape"):
        predict(policy, np.zeros((2, 4), np.float32), None, None, True, None)
