"""Attributes and methods of vector environments: access to inner ones, and one line where there is none."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import ClipReward
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from vector_worlds import Faulty, N, Plain, Room, cartpole, monitored, native, sync

from minrl.online.vector import VectorEnvironment, as_vec_env


def test_an_unknown_autoreset_mode_is_refused() -> None:
    for found in (None, "NextStep", "maybe"):
        with pytest.raises(ValueError, match=rf"Plain has the autoreset mode {found!r}.*autoreset=AutoresetMode"):
            as_vec_env(Plain(found))
    assert VectorEnvironment(Plain(), autoreset=AutoresetMode.NEXT_STEP).autoreset is AutoresetMode.NEXT_STEP
    with pytest.raises(ValueError, match="contradicts"):
        VectorEnvironment(native(), autoreset=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match=r"must be a gymnasium\.vector\.AutoresetMode, got 'NextStep'"):
        VectorEnvironment(Plain(), autoreset="NextStep")  # type: ignore[arg-type]


def test_as_vec_env_passes_vec_envs_and_refuses_the_rest() -> None:
    environment = monitored()
    assert as_vec_env(environment) is environment
    assert isinstance(as_vec_env(native()), VectorEnvironment)
    with pytest.raises(ValueError, match=r"got .*TimeLimit"):
        as_vec_env(cartpole())


@pytest.mark.parametrize(
    "space", [spaces.Tuple([spaces.Discrete(2)]), spaces.Dict({"a": spaces.Dict({})}), spaces.Discrete(3, start=1)]
)
def test_spaces_that_stable_baselines_cannot_take_are_refused(space: gymnasium.Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"minrl\.online\.spaces\.fit_spaces"):
        VectorEnvironment(Plain(AutoresetMode.NEXT_STEP, space=space))


def test_wrong_numbers_of_environments_are_named() -> None:
    with pytest.raises(ValueError, match=r"Plain gave the observation the shape \(2, 2\), expected \(3, 2\)"):
        VectorEnvironment(Plain(AutoresetMode.NEXT_STEP, rows=2)).reset()
    environment = sync(AutoresetMode.NEXT_STEP)
    environment.reset()
    with pytest.raises(ValueError, match=r"expected 3 actions, got an array of shape \(2,\)"):
        environment.step(np.zeros(2, dtype=int))
    model = PPO("MlpPolicy", environment, n_steps=8, batch_size=24, device="cpu")
    with pytest.raises(AssertionError, match="number of environments to be set is different"):
        model.set_env(sync(AutoresetMode.NEXT_STEP, count=2))


@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_an_error_inside_an_environment_comes_through() -> None:
    environments = [
        sync(AutoresetMode.NEXT_STEP, Faulty),
        VectorEnvironment(AsyncVectorEnv([Room, Faulty], autoreset_mode=AutoresetMode.SAME_STEP)),
    ]
    for environment in environments:
        with closing(environment):
            environment.reset()
            with pytest.raises(RuntimeError, match="the motor burnt out"):
                environment.step(np.zeros((environment.num_envs, 2), dtype=np.float32))


@pytest.fixture(params=[SyncVectorEnv, AsyncVectorEnv])
def room(request: pytest.FixtureRequest) -> Iterator[VectorEnvironment]:
    with closing(VectorEnvironment(request.param([Room] * N))) as environment:
        environment.reset()
        yield environment


def test_attributes_and_methods(room: VectorEnvironment) -> None:
    assert room.get_attr("gain") == [1.0] * N
    room.set_attr("gain", 3.0)
    assert room.env_method("scale", 2.0) == [6.0] * N
    assert room.get_attr("gain", indices=[0, 2]) == room.get_attr("gain", indices=1) * 2 == [6.0, 6.0]
    assert room.has_attr("scale")
    assert all(callable(method) for method in room.get_attr("scale")), "a method is handed over, not called"
    assert not room.has_attr("missing"), "and the workers live on"
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        room.get_attr("missing")
    with pytest.raises(AttributeError, match="no method 'missing'"):
        room.env_method("missing")
    assert room.env_is_wrapped(Monitor) == [True] * N
    room.step(np.zeros((N, 2), dtype=np.float32))


def test_single_environments_are_reached_where_they_can_be() -> None:
    environment = sync(AutoresetMode.NEXT_STEP, Room)
    environment.set_attr("gain", 5.0, indices=1)
    assert environment.env_method("scale", 2.0, indices=[1, 2]) == [10.0, 2.0]
    assert environment.get_attr("gain") == [1.0, 10.0, 2.0]
    assert sync(AutoresetMode.NEXT_STEP).env_is_wrapped(gymnasium.wrappers.TimeLimit) == [True] * N
    with closing(VectorEnvironment(AsyncVectorEnv([Room] * N))) as distant:
        for use in (partial(distant.set_attr, "gain", 5.0), partial(distant.env_method, "scale", 2.0)):
            with pytest.raises(ValueError, match=r"for all 3 environments at once, not for \[1\]"):
                use(indices=1)


def test_native_attributes() -> None:
    vector = native()
    environment = VectorEnvironment(ClipReward(vector, max_reward=0.5))
    assert environment.get_attr("gravity", indices=[0, 1]) == [9.8, 9.8]
    environment.set_attr("gravity", 1.6)
    assert vector.unwrapped.gravity == 1.6
    assert not environment.has_attr("missing")
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        environment.get_attr("missing")
    with pytest.raises(AttributeError, match="one array for all 3 environments"):
        environment.get_attr("steps")
    with pytest.raises(ValueError, match="cannot call 'render' on each"):
        environment.env_method("render")
    with pytest.raises(ValueError, match="not for"):
        environment.set_attr("gravity", 1.6, indices=0)
    assert environment.metadata["render_fps"] == vector.metadata["render_fps"]


def test_images_are_tiled() -> None:
    pytest.importorskip("pygame")
    make = partial(gymnasium.make, "CartPole-v1", render_mode="rgb_array")
    for environment in (sync(AutoresetMode.NEXT_STEP, make, 4), VectorEnvironment(native(4, render_mode="rgb_array"))):
        with closing(environment):
            environment.reset()
            assert [image.shape for image in environment.get_images()] == [(400, 600, 3)] * 4
            tiled = environment.render()
            assert tiled is not None
            assert tiled.shape == (800, 1200, 3)
    with pytest.warns(UserWarning, match="the render mode is None"):
        assert sync(AutoresetMode.NEXT_STEP).get_images() == [None] * N
