"""Boxes of whole numbers as actions: train on the sampled value, execute the rounded and clipped one.

The right values are Python's own: `round`, `min` and `max` of integers of any size.
"""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from ppo_models import every_policy, small
from stable_baselines3.common.callbacks import BaseCallback

from minrl.agents.ppo_agent import PPOAgent, PPOConfig
from minrl.data import EnvironmentInfo
from minrl.data.spaces import unflatten
from minrl.data.task import Task
from minrl.export.spaces import ActionDecoder
from minrl.online.actions import bounded, to_environment
from minrl.play import Player

BOXES = {
    "int8": spaces.Box(-128, 127, (3,), np.int8),
    "uint8": spaces.Box(0, 255, (3,), np.uint8),
    "uneven": spaces.Box(np.array([0, -7, 2]), np.array([1, 7, 90]), dtype=np.int16),
    "int32": spaces.Box(-2, 3, (3,), np.int32),
    "int64": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (3,), np.int64),
    "uint64": spaces.Box(0, np.iinfo(np.uint64).max, (3,), np.uint64),
}
every_box = pytest.mark.parametrize("space", BOXES.values(), ids=BOXES)
SEEN = spaces.Box(-1, 1, (2,), np.float32)


class Buttons(gymnasium.Env[Any, Any]):
    """Environment of random observations that records its actions."""

    observation_space = SEEN

    def __init__(self, space: spaces.Box) -> None:
        self.action_space, self.taken = space, []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(np.array(action))
        self.steps += 1
        reward = float(np.clip(np.float64(action), -9, 9).sum())
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), reward, False, self.steps == 9, {}


class Sampled(BaseCallback):
    """Callback that records the sampled actions."""

    def _on_step(self) -> bool:
        self.model.sampled.append(self.locals["actions"][0].copy())  # type: ignore[attr-defined]
        return True


def rounded(space: spaces.Box, values: Any) -> list[int]:
    """Round each value to the nearest whole number within its column's bounds."""
    bounds = zip(values.tolist(), space.low.tolist(), space.high.tolist(), strict=True)
    return [min(max(round(value), low), high) for value, low, high in bounds]


@every_policy
@every_box
def test_training_uses_the_sampled_values(family: str, space: spaces.Box) -> None:
    env = Buttons(space)
    model = small(family, env, n_steps=32, policy_kwargs={"log_std_init": 1.5})
    model.sampled = []  # type: ignore[attr-defined]
    model.learn(32, callback=Sampled())
    # The first minibatch after a rollout: acting and training agree except for rounding.
    assert model.policy.first_ratio_dev < 1e-5
    sampled = np.stack(model.sampled)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(model.rollout_buffer.actions[:, 0], sampled)
    assert np.any(sampled != np.rint(sampled))
    assert [taken.tolist() for taken in env.taken] == [rounded(space, row) for row in sampled]


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_real_numbers_have_the_type_of_their_space(dtype: Any, squashed: bool) -> None:
    space: Any = spaces.Box(-0.7, 0.3, (2,), dtype)
    for action in to_environment(space, np.array([[-1, 1], [0.123, -5], [5, 0]], np.float32), squashed=squashed)[:1]:
        assert space.contains(action)
        np.testing.assert_allclose(action, [-0.7, 0.3], rtol=np.finfo(dtype).eps if dtype != np.float64 else 1e-7)


@every_box
def test_one_rule_rounds_everywhere(space: spaces.Box) -> None:
    numbers = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 3.7, -129.2, 300.0, 2.0**40, -(2.0**40)], np.float32)
    rows = np.stack([np.roll(numbers, shift) for shift in range(3)], axis=1)
    expected = [rounded(space, row) for row in rows]
    trained = to_environment(space, rows, squashed=False)
    played = unflatten(space, rows)
    (exported,) = ActionDecoder(space)(torch.from_numpy(rows))
    for values in (trained, played, exported.numpy()):
        assert values.dtype == space.dtype
        assert values.tolist() == expected
    # The previous action that a policy reads, in its own precision.
    remembered = bounded(space, torch.from_numpy(rows), squashed=False).numpy()
    np.testing.assert_array_equal(remembered, np.array(expected, dtype=object).astype(np.float32))


@every_box
def test_the_largest_numbers_do_not_wrap_around(space: spaces.Box) -> None:
    rows = np.full((2, 3), 3e38, np.float32) * np.array([[1], [-1]], np.float32)
    for values in (to_environment(space, rows, squashed=False), unflatten(space, rows)):
        middle = (space.low.astype(object) + space.high.astype(object)) // 2
        assert (values[0].astype(object) > middle).all()
        assert (values[1].astype(object) <= middle).all()
        assert all(space.contains(row) for row in values)


@every_box
def test_squashed_actions_span_the_space(space: spaces.Box) -> None:
    ends = np.array([[-1.0] * 3, [0.0] * 3, [1.0] * 3], np.float32)
    values = to_environment(space, ends, squashed=True)
    low, high = space.low.astype(object), space.high.astype(object)
    assert all(space.contains(row) for row in values)
    for row, wanted in zip(values.astype(object), (low, (low + high) / 2, high), strict=True):
        # Half a step in the middle, and float64's precision for 64 bits.
        assert all(abs(a - b) <= 0.5 + 2**-50 * abs(float(b)) for a, b in zip(row, wanted, strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_flat_actions_of_several_axes_meet_their_own_bounds(dtype: Any) -> None:
    low, high = np.arange(6).reshape(2, 3), np.arange(10, 16).reshape(2, 3)
    space = spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
    rows = torch.tensor([[-9.0, 99.0] * 3, [3.0] * 6])
    expected = [[0, 11, 2, 13, 4, 15], [3, 3, 3, 3, 4, 5]]
    assert bounded(space, rows, squashed=False).tolist() == expected
    assert bounded(space, rows.reshape(2, 2, 3), squashed=False).reshape(2, 6).tolist() == expected
    middle = [[5, 6, 7, 8, 9, 10]]
    assert bounded(space, torch.zeros(1, 6), squashed=True).tolist() == middle


def test_predict_and_evaluations_act_equally() -> None:
    space = BOXES["uneven"]
    task = Task.in_environment(EnvironmentInfo("Buttons-v0"), SEEN, space)
    torch.manual_seed(1)
    agent = PPOAgent(PPOConfig(width=8, depth=1, previous_action=True), task)
    with torch.no_grad():
        for parameter in agent.policy.action_net.parameters():
            parameter.mul_(300).add_(3.0)
    player, state = Player(agent, 4), None
    random = np.random.default_rng(0)
    for step in range(6):
        observations, start = random.uniform(-1, 1, (4, 2)).astype(np.float32), np.full(4, step == 0)
        played = player.act(observations, np.zeros(4), start)
        predicted, state = agent.policy.predict(observations, state, start, deterministic=True)
        np.testing.assert_array_equal(played, predicted)
        assert played.dtype == predicted.dtype == space.dtype
