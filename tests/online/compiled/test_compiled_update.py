"""The compiled update against the inherited `PPO.train`: weights, moments, figures and random numbers are the same."""

import numpy as np
import pytest
from compiled_cases import CASES, ready
from torch import nn

from minrl.agents.ppo import RecurrentPPO
from minrl.kernels.guard import without_fused_kernels
from minrl.online.compiled.conditions import obstacle_of_update


def updated(name: str, *, double: bool) -> tuple[RecurrentPPO, RecurrentPPO]:
    """Update two equal models, one by torch's operations and one by the kernels."""
    model = ready(name, double=double)
    with without_fused_kernels():
        model.train()
    after = np.random.random()  # noqa: NPY002
    other = ready(name, double=double)
    assert obstacle_of_update(other.policy) is None
    other.train()
    assert np.random.random() == after  # noqa: NPY002
    return model, other


def assert_same(model: RecurrentPPO, other: RecurrentPPO, tolerance: float) -> None:
    vectors = [nn.utils.parameters_to_vector(each.policy.parameters()).detach() for each in (model, other)]
    assert float((vectors[0] - vectors[1]).abs().max()) <= tolerance * float(vectors[0].abs().max())
    states = [each.policy.optimizer.state_dict()["state"] for each in (model, other)]
    assert states[0].keys() == states[1].keys()
    for number, first in states[0].items():
        second = states[1][number]
        assert first["step"] == second["step"]
        for moment in ("exp_avg", "exp_avg_sq"):
            error = (first[moment] - second[moment]).abs().max()
            assert error <= 100 * tolerance * max(float(first[moment].abs().max()), 1e-2)


# The kernels are compiled for each precision and for minLSTM, which takes a minute.
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "minlstm" else n for n in CASES])
@pytest.mark.parametrize("double", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["float32", "float64"])
def test_both_paths_make_the_same_update(name: str, double: bool) -> None:
    model, other = updated(name, double=double)
    assert_same(model, other, 1e-10 if double else 1e-5)
    log, other_log = model.logger.name_to_value, other.logger.name_to_value
    assert log.keys() == other_log.keys()
    for key in log:
        if key.startswith("train/") and key != "train/first_ratio_dev":
            assert other_log[key] == pytest.approx(log[key], rel=1e-4, abs=1e-6), key
    assert other.policy.first_ratio_dev <= 1e-5
    assert model._n_updates == other._n_updates
