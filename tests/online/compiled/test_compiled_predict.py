"""`predict` as one compiled call against torch's operations, and changes of a policy between two calls."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from compiled_cases import CASES, ready
from torch import nn

from minrl.agents.ppo import RecurrentPPO
from minrl.data.masks.action_masks import mask_size
from minrl.kernels.guard import without_fused_kernels
from minrl.online.compiled import predict


def in_torch(policy: Any, *arguments: Any, **options: Any) -> Any:
    """Predict in torch's operations."""
    with without_fused_kernels():
        return policy.predict(*arguments, **options)


def in_one_call(policy: Any, *arguments: Any, **options: Any) -> Any:
    """Predict by the kernel, and fail where it is not taken."""
    options = {"state": None, "episode_start": None, "deterministic": True, "reward": None, **options}
    options["masks"] = options.pop("action_masks", None)
    found = predict.predict(policy, *arguments, **options)
    assert found is not None
    return found


def assert_close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    assert type(a[0]) is type(b[0])
    assert len(a[1]) == len(b[1])
    for x, y in zip((a[0], *a[1]), (b[0], *b[1]), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_predict_is_that_of_torch(name: str) -> None:
    policy = ready(name).policy
    generator = np.random.default_rng(0)
    for shape in ((3,), (1, 3), (5, 3)):
        count, state = shape[0] if len(shape) > 1 else 1, None
        for deterministic in (False, False, True, False):
            observation = generator.uniform(-1, 1, shape).astype(np.float32)
            rest = {"state": state, "deterministic": deterministic, "reward": np.ones(count)}
            if size := mask_size(policy.action_space):
                rest["action_masks"] = [None, generator.random((count, size)) < 0.5][deterministic]
                if deterministic:
                    rest["action_masks"][:, 1::2] = True  # of each part a choice at least
            rest["episode_start"] = None if state is None else generator.random(count) < 0.3
            results = []
            for run in (in_torch, in_one_call):
                torch.manual_seed(2)
                results.append(run(policy, observation, **rest))
                results.append(torch.rand(1))  # both draw as many random numbers
            assert_close(results[0], results[2])
            assert torch.equal(results[1], results[3])
            state = results[2][1]


def test_the_models_and_the_policys_predict_are_one() -> None:
    for name in ("plain", "mlp", "lstm"):
        model = ready(name)
        observation = np.full((4, 3), 0.3, np.float32)
        found = [run(observation, deterministic=True) for run in (model.predict, model.policy.predict)]
        found.append(in_one_call(model.policy, observation))
        for other in found[1:]:
            assert_close(found[0], other, 0.0)


def test_a_critics_own_backbone_has_no_part_in_it() -> None:
    policy: Any = ready("separate critic").policy
    observation = np.full((2, 3), 0.3, np.float32)
    before = in_one_call(policy, observation)
    assert before[1][0].shape == (2, policy.critic_trunk.backbone.state_size)
    with torch.no_grad():
        for parameter in policy.critic_trunk.parameters():
            parameter.fill_(torch.nan)
    for run in (in_one_call, in_torch):
        assert_close(run(policy, observation, deterministic=True), before)
    with pytest.raises(ValueError, match="values need the whole hidden state"):
        policy.predict_values(torch.zeros(2, 3), torch.from_numpy(before[1][0]), torch.zeros(2, dtype=torch.bool))


def test_other_kinds_of_arguments() -> None:
    for name in ("mlp", "lstm, two layers"):
        policy = ready(name).policy
        rows = np.linspace(-1, 1, 6).reshape(2, 3)  # float64
        _, state = in_one_call(policy, rows.astype(np.float32))
        wanted = in_torch(policy, rows.astype(np.float32), state, np.array([True, False]), deterministic=True)
        for start in ([1, 0], np.array([[True], [False]]), np.array([1.0, 0.0])):
            for parts in (state, list(state), tuple(x.astype(np.float64) for x in state)):
                assert_close(in_one_call(policy, rows, state=parts, episode_start=start), wanted)
        rows.flags.writeable = False
        with torch.inference_mode():
            in_one_call(policy, rows[:1], deterministic=False)
        in_one_call(policy, rows[:1], deterministic=False)


def test_results_are_the_callers() -> None:
    """Check that later calls, also of other threads, do not write to them."""
    policy = ready("mlp").policy
    rows = np.random.default_rng(0).uniform(-1, 1, (64, 3)).astype(np.float32)
    first = in_one_call(policy, rows[:1])
    kept = [x.copy() for x in (first[0], *first[1])]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: in_one_call(policy, rows[i : i + 1])[0], [*range(64)] * 4))
    np.testing.assert_allclose(np.concatenate(found[:64]), in_torch(policy, rows, deterministic=True)[0], atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(found), np.tile(np.concatenate(found[:64]), (4, 1)))
    for x, y in zip((first[0], *first[1]), kept, strict=True):
        np.testing.assert_array_equal(x, y)


def in_place(model: RecurrentPPO) -> None:
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3)


def load(model: RecurrentPPO) -> None:
    model.policy.load_state_dict({k: x + 0.3 for k, x in model.policy.state_dict().items()})


def assign(model: RecurrentPPO) -> None:
    model.policy.load_state_dict({k: x + 0.3 for k, x in model.policy.state_dict().items()}, assign=True)


def move(model: RecurrentPPO) -> None:
    for parameter in model.policy.parameters():
        parameter.data = parameter.data + 0.3


def replace(name: str) -> Callable[[RecurrentPPO], None]:
    def change(model: RecurrentPPO) -> None:
        layer = getattr(model.policy, name)
        torch.manual_seed(5)
        setattr(model.policy, name, nn.Linear(layer.in_features, layer.out_features))

    return change


def hook(model: RecurrentPPO) -> None:
    model.policy.action_net.register_forward_hook(lambda module, inputs, output: output + 0.3)


def own_step(model: RecurrentPPO) -> None:
    policy: Any = model.policy
    step = policy._step
    policy._step = lambda *arguments: tuple(x + 0.3 for x in step(*arguments))


def own_memory(model: RecurrentPPO) -> None:
    policy: Any = model.policy
    state = policy._state
    policy._state = lambda memory: state(memory + 0.3)


def train(model: RecurrentPPO) -> None:
    model.learn(model.n_steps * model.n_envs)


CHANGES = (in_place, load, assign, move, replace("action_net"), hook, own_step, own_memory, train)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["mlp", "lstm, two layers"])
def test_a_change_counts_in_the_next_call(name: str, change: Callable[[RecurrentPPO], None]) -> None:
    model = ready(name)
    observation = np.full((2, 3), 0.3, np.float32)
    before = in_one_call(model.policy, observation)
    change(model)
    after = model.predict(observation, deterministic=True)
    assert_close(after, in_torch(model.policy, observation, deterministic=True))
    assert not model.policy.training
    changed = [np.abs(x - y).max() for x, y in zip((before[0], *before[1]), (after[0], *after[1]), strict=True)]
    assert max(changed) > 1e-4


def test_what_does_not_fit_is_refused() -> None:
    policy = ready("plain").policy
    with pytest.raises(ValueError, match="episode_start"):
        policy.predict(np.zeros((2, 3), np.float32), None, np.zeros(3, bool))
    with pytest.raises(ValueError, match="state"):
        policy.predict(np.zeros((2, 3), np.float32), (np.zeros((3, 1), np.float32),))
    with pytest.raises(ValueError, match="state"):
        policy.predict(np.zeros((2, 3), np.float32), np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="shape"):
        policy.predict(np.zeros((2, 4), np.float32))
