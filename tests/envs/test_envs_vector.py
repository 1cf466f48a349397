"""Natively vectorised environments against Gymnasium's SyncVectorEnv over the scalar ones, to the bit."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import minrl.envs

__all__ = ["minrl"]

CARTPOLE, PENDULUM = "minrl/CartPoleNoVel-v1", "minrl/PendulumNoVel-v1"
MOUNTAIN_CAR, ACROBOT = "minrl/MountainCarContinuousNoVel-v0", "minrl/AcrobotNoVel-v1"
NATIVE = [name for name, spec in gymnasium.registry.items() if name.startswith("minrl/") and spec.vector_entry_point]
Policy = Callable[[Any, Any, np.random.Generator], Any]


def native(name: str, count: int = 3, **options: Any) -> VectorEnv[Any, Any, Any]:
    return gymnasium.make_vec(name, count, vectorization_mode="vector_entry_point", **options)


def reference(name: str, mode: AutoresetMode, count: int = 3, **options: Any) -> SyncVectorEnv:
    maker = partial(gymnasium.make, name, disable_env_checker=True, **options)
    return SyncVectorEnv([maker] * count, autoreset_mode=mode)


def rocking(observations: Any, last: Any, generator: np.random.Generator) -> Any:
    """Act in the direction of motion, often beyond the bounds of the space: the car reaches the goal."""
    direction = np.where(observations[:, :1] >= last[:, :1], 1.0, -1.0)
    return (direction * generator.uniform(0.6, 1.4, size=direction.shape)).astype(np.float32)


def pushing(observations: Any, last: Any, generator: np.random.Generator) -> Any:
    return generator.uniform(-2.5, 2.5, size=(len(observations), 1)).astype(np.float32)


def choosing(n: int) -> Policy:
    return lambda observations, last, generator: generator.integers(n, size=len(observations))


# Steps of two episodes, where 420 are too few.
LONG = {ACROBOT: 1010, "minrl/TMaze1000-v0": 2100}
POLICIES: dict[str, Policy] = {PENDULUM: pushing, MOUNTAIN_CAR: rocking}


def assert_same_episodes(name: str, mode: AutoresetMode, steps: int, **options: Any) -> tuple[int, int]:
    """Run both side by side; return how many episodes were terminated and truncated."""
    ours, theirs = native(name, autoreset_mode=mode, **options), reference(name, mode, **options)
    assert ours.metadata["autoreset_mode"] is mode
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space
    generator, space = np.random.default_rng(1), ours.single_action_space
    policy = choosing(int(space.n)) if isinstance(space, spaces.Discrete) else POLICIES[name]
    seen, _ = ours.reset(seed=5)
    np.testing.assert_array_equal(seen, theirs.reset(seed=5)[0])
    last, ends = seen, np.zeros(2, dtype=int)
    for _ in range(steps):
        actions = policy(seen, last, generator)
        last = seen
        *mine, infos = ours.step(actions)
        *expected, expected_infos = theirs.step(actions)
        for got, wanted in zip(mine, expected, strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)
        assert_same_infos(infos, expected_infos)
        seen, _, terminated, truncated = mine
        assert seen.flags.c_contiguous
        ends += terminated.sum(), truncated.sum()
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            mask = terminated | truncated
            seen, _ = ours.reset(options={"reset_mask": mask})
            np.testing.assert_array_equal(seen, theirs.reset(options={"reset_mask": mask})[0])
    return int(ends[0]), int(ends[1])


def assert_same_infos(infos: dict[str, Any], expected: dict[str, Any]) -> None:
    assert infos.keys() == expected.keys()
    if infos:
        assert infos["final_info"] == expected["final_info"] == {}
        for key in ("_final_obs", "_final_info"):
            np.testing.assert_array_equal(infos[key], expected[key])
        for got, wanted in zip(infos["final_obs"], expected["final_obs"], strict=True):
            np.testing.assert_array_equal(got, wanted)


def each_with(mode: AutoresetMode) -> Any:
    """Pair every environment with `mode`, and one of each kind of actions with all: the modes are the same code."""
    pairs = [*((name, mode) for name in NATIVE), *product((CARTPOLE, PENDULUM), AutoresetMode)]
    return pytest.mark.parametrize(
        ("name", "mode"), dict.fromkeys(pairs), ids=lambda word: getattr(word, "value", word)
    )


@each_with(AutoresetMode.SAME_STEP)
def test_episodes_equal_those_of_the_scalar_environment(name: str, mode: AutoresetMode) -> None:
    terminated, truncated = assert_same_episodes(name, mode, steps=LONG.get(name, 420))
    assert terminated + truncated >= 6


@each_with(AutoresetMode.NEXT_STEP)
def test_a_time_limit_truncates_and_does_not_terminate(name: str, mode: AutoresetMode) -> None:
    terminated, truncated = assert_same_episodes(name, mode, steps=60, max_episode_steps=7)
    assert truncated >= 3 * (60 // 8)
    assert terminated <= 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (CARTPOLE, {"zeroed": True}),
        (CARTPOLE, {"sutton_barto_reward": True}),
        (PENDULUM, {"zeroed": True, "g": 9.81}),
        (MOUNTAIN_CAR, {"zeroed": True}),
        (MOUNTAIN_CAR, {"goal_velocity": 0.02}),
        (ACROBOT, {"zeroed": True}),
        ("minrl/RepeatFirst-v0", {"num_decks": 2}),
        ("minrl/RepeatPrevious-v0", {"k": 7}),
        ("minrl/RepeatPrevious-v0", {"k": 1, "num_decks": 2}),
    ],
    ids=str,
)
def test_options_mean_the_same(name: str, options: dict[str, Any]) -> None:
    assert_same_episodes(name, AutoresetMode.SAME_STEP, steps=250, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (CARTPOLE, {"low": 0.01, "high": 0.02}),
        (PENDULUM, {"x_init": 0.1}),
        (MOUNTAIN_CAR, {"low": -0.2, "high": 0.0}),
        (ACROBOT, {"low": -0.3, "high": 0.2}),
    ],
)
def test_reset_options_mean_the_same(name: str, options: dict[str, Any]) -> None:
    ours, theirs = native(name), reference(name, AutoresetMode.NEXT_STEP)
    drawn, _ = ours.reset(seed=[3, None, 11], options=options)
    np.testing.assert_array_equal(drawn[[0, 2]], theirs.reset(seed=[3, None, 11], options=options)[0][[0, 2]])
    assert not np.array_equal(drawn[[0, 2]], ours.reset(seed=[3, None, 11])[0][[0, 2]])


@pytest.mark.parametrize(("name", "limit"), [(PENDULUM, 200), (MOUNTAIN_CAR, 999)])
def test_the_registered_time_limit_holds(name: str, limit: int) -> None:
    vector = native(name, 2)
    vector.reset(seed=0)
    for step in range(1, limit + 1):
        _, _, terminated, truncated, _ = vector.step(np.zeros((2, 1), dtype=np.float32))
        assert truncated.tolist() == [step == limit] * 2
        assert not terminated.any()


def test_cartpole_can_be_balanced_to_its_time_limit() -> None:
    """Hold the pole up by a hand-made rule on the differences of observations."""
    vector = native(CARTPOLE, 4)
    seen, _ = vector.reset(seed=0)
    last = seen
    for step in range(1, 501):
        (place, angle), (speed, spin) = seen.T, (seen - last).T / 0.02
        last = seen
        actions = (angle + 0.3 * spin + 0.02 * place + 0.05 * speed > 0).astype(np.int64)
        seen, rewards, terminated, truncated, _ = vector.step(actions)
        assert not terminated.any()
        assert truncated.tolist() == [step == 500] * 4
        assert rewards.tolist() == [1.0] * 4


def test_equal_seeds_give_equal_rows_however_many_there_are() -> None:
    few, many = native(CARTPOLE, 2), native(CARTPOLE, 5)
    np.testing.assert_array_equal(few.reset(seed=7)[0], many.reset(seed=7)[0][:2])
    np.testing.assert_array_equal(few.reset(seed=9)[0], many.reset(seed=7)[0][2:4])
    # Without a seed each row's generator continues.
    assert not np.array_equal(few.reset()[0], few.reset()[0])


def test_returned_observations_are_not_overwritten() -> None:
    vector = native(PENDULUM)
    seen, _ = vector.reset(seed=0)
    kept = seen.copy()
    vector.step(np.ones((3, 1), dtype=np.float32))
    np.testing.assert_array_equal(seen, kept)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 1], "shape"),
        ([0, 1, 2], "whole numbers from 0 to 1"),
        ([0, -1, 0], "from 0"),
        ([0.0, 1.0, 0.0], "whole numbers"),
    ],
)
def test_wrong_actions_are_refused(actions: list[Any], message: str) -> None:
    vector = native(CARTPOLE)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        vector.step(np.array(actions))


def test_misuse_is_answered_in_one_line() -> None:
    with pytest.raises(ValueError, match="autoreset_mode must be one of NextStep, SameStep, Disabled"):
        native(CARTPOLE, autoreset_mode="never")
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        native(CARTPOLE, 0)
    with pytest.raises(ValueError, match="vectorization_mode='sync'"):
        native(CARTPOLE, render_mode="rgb_array")
    vector = native("minrl/RepeatFirst-v0", autoreset_mode="Disabled")
    actions = np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="call reset"):
        vector.step(actions)
    with pytest.raises(ValueError, match="first reset must be of every row"):
        vector.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(ValueError, match="one seed for each of 3"):
        vector.reset(seed=[1, 2])
    vector.reset(seed=0)
    for mask in (np.zeros(3, dtype=bool), np.ones(2, dtype=bool), np.ones(3)):
        with pytest.raises(ValueError, match="reset_mask must hold 3 booleans"):
            vector.reset(options={"reset_mask": mask})
    for _ in range(51):
        vector.step(actions)
    with pytest.raises(ValueError, match=r"rows \[0, 1, 2\] are over"):
        vector.step(actions)
