"""Spaces that Stable-Baselines3 does not support, in environments that check every action."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from ppo_models import small
from ppo_runs import whole
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env

from minrl import load
from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.evaluate import evaluate
from minrl.online.spaces import FittedSpaces, fit_spaces


class Echo(gymnasium.Env[Any, Any]):
    """Environment of random observations that records them and checks its actions."""

    def __init__(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken = action
        self.steps += 1
        return self.look(), 1.0, self.steps == 10, False, {}

    def look(self) -> Any:
        self.seen = self.observation_space.sample()
        return self.seen


PAIR = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(4)])
NESTED = spaces.Dict(
    {
        "cards": spaces.Tuple([spaces.Discrete(3, start=5), spaces.MultiDiscrete([[2, 3], [4, 5]])]),
        "place": spaces.Box(-1, 1, (3,), np.float32),
        "flags": spaces.MultiBinary(2),
    }
)
PLAIN = spaces.Discrete(2)
LOW = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    "space",
    [
        LOW,
        PLAIN,
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Dict({"a": LOW, "b": spaces.Discrete(3)}),
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
    ],
    ids=str,
)
def test_spaces_that_fit_are_left_alone(space: gymnasium.Space[Any]) -> None:
    env = Echo(space, PLAIN)
    assert fit_spaces(env) is env


@pytest.mark.parametrize("space", [LOW, PLAIN, spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)], ids=str)
def test_actions_that_fit_are_left_alone(space: gymnasium.Space[Any]) -> None:
    env = Echo(LOW, space)
    assert fit_spaces(env) is env


def test_observations_keep_every_part() -> None:
    env = Echo(NESTED, PLAIN)
    fitted = fit_spaces(env)
    assert fitted.observation_space == spaces.Dict(
        {
            "cards/0": spaces.Discrete(3),
            "cards/1": spaces.MultiDiscrete([2, 3, 4, 5]),
            "place": NESTED["place"],
            "flags": NESTED["flags"],
        }
    )
    observation, _ = fitted.reset(seed=1)
    for _ in range(20):
        assert fitted.observation_space.contains(observation)
        assert observation["cards/0"] == env.seen["cards"][0] - 5
        np.testing.assert_array_equal(observation["cards/1"], env.seen["cards"][1].reshape(-1))
        np.testing.assert_array_equal(observation["place"], env.seen["place"])
        np.testing.assert_array_equal(observation["flags"], env.seen["flags"])
        observation, *_ = fitted.step(0)


def test_a_tuple_becomes_a_dict_with_numbered_keys() -> None:
    env = Echo(PAIR, PLAIN)
    fitted = fit_spaces(env)
    assert fitted.observation_space == spaces.Dict({"0": spaces.Discrete(2), "1": spaces.Discrete(4)})
    observation, _ = fitted.reset(seed=0)
    assert observation == {"0": env.seen[0], "1": env.seen[1]}


@pytest.mark.parametrize(
    ("space", "fitted", "action", "taken"),
    [
        (spaces.Discrete(3, start=-1), spaces.Discrete(3), np.int64(0), -1),
        (PAIR, spaces.MultiDiscrete([2, 4]), np.array([1, 3]), (1, 3)),
        (
            spaces.Tuple([spaces.Discrete(3, start=2), spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3])]),
            spaces.MultiDiscrete([3, 2, 2, 2, 3]),
            np.array([2, 1, 0, 1, 2]),
            (4, np.array([1, 0]), np.array([1, 2])),
        ),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [0, 0]]),
            spaces.MultiDiscrete([2, 3, 4, 5]),
            np.array([1, 2, 3, 4]),
            np.array([[1, 3], [3, 4]]),
        ),
    ],
    ids=str,
)
def test_actions_arrive_in_the_environment_s_form(space: Any, fitted: Any, action: Any, taken: Any) -> None:
    env = Echo(LOW, space)
    wrapped = fit_spaces(env)
    assert wrapped.action_space == fitted
    wrapped.reset(seed=0)
    wrapped.step(action)
    flat = zip(env.taken, taken, strict=True) if isinstance(taken, tuple) else [(env.taken, taken)]
    for got, wanted in flat:
        np.testing.assert_array_equal(got, wanted)


def test_a_single_number_without_an_axis_and_flags_of_several() -> None:
    number, flags = spaces.Box(-2, 3, (), np.float32), spaces.MultiBinary((2, 2))
    fitted = fit_spaces(Echo(spaces.Dict({"a": number, "b": LOW}), flags))
    assert fitted.observation_space == spaces.Dict({"a": spaces.Box(-2, 3, (1,), np.float32), "b": LOW})
    assert fitted.action_space == spaces.MultiBinary(4)
    observation, _ = fitted.reset(seed=0)
    assert fitted.observation_space.contains(observation)
    assert observation["a"] == fitted.unwrapped.seen["a"]  # type: ignore[attr-defined]
    fitted.step(np.array([1, 0, 0, 1], np.int8))
    np.testing.assert_array_equal(fitted.unwrapped.taken, [[1, 0], [0, 1]])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seen", "done"),
    [
        (spaces.Box(-2, 3, (), np.float32), PLAIN),
        (spaces.Dict({"b": LOW, "a": spaces.Box(-2, 3, (), np.float64)}), spaces.MultiBinary((2, 2))),
    ],
)
def test_a_run_learns_loads_and_acts_there(seen: Any, done: Any, tmp_path: Path) -> None:
    gymnasium.register("Echo-v0", entry_point=Echo, kwargs={"observation_space": seen, "action_space": done})
    try:
        whole(tmp_path / "run", env="Echo-v0", n_envs=2, steps=64, evaluate_every=64, evaluate_episodes=2)
        agent = load(tmp_path / "run")
        assert evaluate(agent, EnvironmentInfo("Echo-v0"), episodes=2)[0].returns == (10.0, 10.0)
        with pytest.raises(ValueError, match=r"wrap each environment with minrl\.online\.spaces\.fit_spaces"):
            small("", Echo(seen, done))
    finally:
        del gymnasium.registry["Echo-v0"]


def test_a_dict_of_choices_is_chosen_by_name() -> None:
    env = Echo(LOW, spaces.Dict({"b": spaces.Discrete(4), "a": spaces.Discrete(2)}))
    wrapped = fit_spaces(env)
    wrapped.reset(seed=0)
    choice = {"a": np.int64(1), "b": np.int64(3)}
    # In the order in which Gymnasium flattens the space.
    wrapped.step(np.array([choice[name] for name in env.action_space.spaces]))  # type: ignore[attr-defined]
    assert env.taken == choice


@pytest.mark.parametrize(("seen", "done"), [(PAIR, PLAIN), (NESTED, PAIR)], ids=["pair", "nested"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ppo_learns_in_fitted_spaces(seen: gymnasium.Space[Any], done: gymnasium.Space[Any]) -> None:
    env = fit_spaces(Echo(seen, done))
    check_env(env, skip_render_check=True)
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu")
    model.learn(32)
    assert env.action_space.contains(model.predict(env.reset(seed=0)[0])[0])


@pytest.mark.parametrize(
    ("seen", "done", "message"),
    [
        (
            spaces.Tuple([PLAIN, spaces.Text(4)]),
            PLAIN,
            "the observation space holds a Text at 1, which PPO cannot take",
        ),
        (spaces.Sequence(PLAIN), PLAIN, "the observation space holds a Sequence at the top"),
        (LOW, spaces.Tuple([PLAIN, LOW]), "must be discrete in all of them"),
        (LOW, spaces.Text(3), "the action space holds a Text at the top"),
        (spaces.Dict({"a": spaces.Dict({"b": LOW}), "a/b": LOW}), PLAIN, "no names of their own"),
    ],
)
def test_spaces_that_cannot_be_fitted_are_refused(seen: Any, done: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_spaces(Echo(seen, done))


def test_popgym_fits() -> None:
    popgym = pytest.importorskip("popgym")
    names = [name["id"] for name in popgym.envs.ALL.values()]
    assert len(names) > 30
    for name in names:
        env = fit_spaces(make_environment(EnvironmentInfo(name)))
        assert isinstance(env, FittedSpaces) == ("Autoencode" in name)
        observation, _ = env.reset(seed=0)
        for _ in range(5):
            assert env.observation_space.contains(observation), name
            observation, _, terminated, *_ = env.step(env.action_space.sample())
            if terminated:
                break
