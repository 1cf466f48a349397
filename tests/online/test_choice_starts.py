"""Choices that begin elsewhere than at 0, through the Python API of recurrent PPO and its files."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from ppo_models import every_policy, small
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from worlds import own_folders  # noqa: F401

from minrl.agents.ppo import RecurrentPPO
from minrl.collect.record import collect
from minrl.data import load
from minrl.online.spaces import fit_spaces

ACTED = {
    "discrete": spaces.Discrete(3, start=-1),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[5, -1]),
    "from zero": spaces.Discrete(3),
}
SEEN: dict[str, gymnasium.Space[Any]] = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(4, start=7),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[-4, 2]),
    "dict": spaces.Dict(level=spaces.Discrete(4, start=-2), place=spaces.Box(-1, 1, (1,), np.float32)),
}


class Lever(gymnasium.Env[Any, Any]):
    """Environment whose reward is the sum of the action; it refuses actions outside its space."""

    def __init__(self, acted: str = "discrete", seen: str = "box") -> None:
        self.action_space, self.observation_space = ACTED[acted], SEEN[seen]
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(np.asarray(action).tolist())
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.steps == 20, {}


@pytest.fixture(autouse=True)
def lever() -> Any:
    """Register `Lever-v0` with Gymnasium."""
    gymnasium.register("Lever-v0", entry_point=Lever)
    yield
    del gymnasium.registry["Lever-v0"]


@every_policy
@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("acted", ACTED)
def test_the_environment_gets_its_own_choices(family: str, acted: str, seen: str) -> None:
    env = Lever(acted, seen)
    model = small(family, env, "MultiInput" if seen == "dict" else "Mlp", n_steps=64)
    model.learn(64)
    assert model.policy.first_ratio_dev < 1e-5
    # Random actions cover every choice of each column within 64 steps.
    space: Any = env.action_space
    if acted == "multidiscrete":
        columns = list(zip(*env.taken, strict=True))
        sizes = zip(space.start, space.nvec, strict=True)
        assert [sorted(set(column)) for column in columns] == [list(range(s, s + n)) for s, n in sizes]
    else:
        assert sorted(set(env.taken)) == list(range(space.start, space.start + space.n))
    action, _ = model.predict(env.reset(seed=0)[0])
    assert env.action_space.contains(action if action.shape else np.int64(action))


@every_policy
def test_it_learns_which_choice_is_the_largest(family: str, tmp_path: Path) -> None:
    model = small(family, Lever("discrete"), n_steps=128, batch_size=128, n_epochs=8, learning_rate=0.02)
    model.learn(128 * 8)
    # 20 steps of the choice 1, the best of -1, 0, 1.
    assert evaluate_policy(model, Lever("discrete"), 2, deterministic=True, warn=False)[0] == 20.0
    model.save(tmp_path / "lever.zip")
    loaded = RecurrentPPO.load(tmp_path / "lever.zip", device="cpu")
    assert loaded.predict(np.zeros(2, np.float32), deterministic=True)[0] == 1
    written = collect(
        str(tmp_path / "lever.zip"), "Lever-v0", 2, "lever/best-v0", deterministic=True, progress=False, trust=True
    )
    assert written.returns == (20.0, 20.0)
    np.testing.assert_array_equal(load(f"minari:{written.name}").actions, np.tile([0, 0, 1], (40, 1)))


def test_observations_are_one_hot_from_their_start() -> None:
    env = Lever("from zero", "discrete")
    model = small("", env)
    shifted = small("", gymnasium.wrappers.TransformObservation(env, lambda x: x - 7, spaces.Discrete(4)))
    shifted.policy.load_state_dict(model.policy.state_dict())
    for choice in range(7, 11):
        expected = shifted.predict(np.array(choice - 7), deterministic=True)
        found = model.predict(np.array(choice), deterministic=True)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1][0], expected[1][0])


def test_vectorised_environments_too() -> None:
    env = make_vec_env("Lever-v0", 2, env_kwargs={"acted": "discrete"})
    small("", env, n_steps=16).learn(32)
    taken = {choice for each in env.envs for choice in each.unwrapped.taken}  # type: ignore[attr-defined]
    assert taken == {-1, 0, 1}


@pytest.mark.parametrize(
    ("seen", "done"),
    [
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]), spaces.Discrete(2)),
        (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))), spaces.Discrete(2)),
        (SEEN["box"], spaces.Dict(a=spaces.Discrete(2))),
        (SEEN["box"], spaces.MultiDiscrete([[2, 3], [2, 2]])),
    ],
)
def test_other_spaces_are_refused_with_the_remedy(seen: Any, done: Any) -> None:
    env = Lever()
    env.observation_space, env.action_space = seen, done
    with pytest.raises(ValueError, match=r"wrap each environment with minrl.online.spaces.fit_spaces"):
        RecurrentPPO("MultiInputPolicy", env, device="cpu")


def test_collect_restores_a_fitted_policy_s_choices(tmp_path: Path) -> None:
    model = small("", fit_spaces(Lever("multidiscrete")), n_steps=64)
    model.learn(64)
    model.save(tmp_path / "fitted.zip")
    written = collect(str(tmp_path / "fitted.zip"), "Lever-v0", 3, "lever/fitted-v0", progress=False, trust=True,
                      environment_options={"acted": "multidiscrete"})  # fmt: skip
    assert written.steps == 60  # Lever refuses any action outside its space


def test_collect_refuses_a_policy_that_counts_from_0(tmp_path: Path) -> None:
    PPO("MlpPolicy", Unchecked(), n_steps=8, batch_size=8, device="cpu").save(tmp_path / "plain.zip")
    with pytest.raises(ValueError, match="whose choices Stable-Baselines3 counts from 0"):
        collect(str(tmp_path / "plain.zip"), "Lever-v0", 1, "lever/plain-v0", progress=False, trust=True)


class Unchecked(Lever):
    """`Lever` without the check of actions."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 0.0, False, self.steps == 20, {}
