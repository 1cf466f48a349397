"""Compiled tasks: random streams against NumPy's generator, one row's functions as Python and as machine code."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from minrl.envs.compiled import Task, addresses
from minrl.envs.random_streams import continue_from, integers, normal, permutation, stream_of, uniform
from minrl.envs.single import SingleEnv
from minrl.envs.vector import CompiledVectorEnv


def wander(state: Any, stream: Any, settings: Any) -> None:
    state[0], state[1] = uniform(stream, -1.0, 1.0), 0.0


def move(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Move by the choices and switches; out of reach is the end, and some steps are the limit."""
    state[0] += settings[0] * (action[0] - 1.0) + 0.01 * action[-1]
    state[1] += 1.0
    return state[0] * state[0], abs(state[0]) > 2.0, state[1] >= settings[1]


def look(state: Any, observation: Any, settings: Any) -> None:
    for i in range(len(observation)):
        observation[i] = 10.0 * abs(state[0]) + i


SPACES = {
    "box": (spaces.Box(-100, 100, (2, 3), np.float32), spaces.Box(-1, 1, (2,), np.float32)),
    "image": (spaces.Box(0, 255, (2, 2, 1), np.uint8), spaces.Discrete(3)),
    "choices": (spaces.MultiDiscrete([40, 40, 40]), spaces.MultiDiscrete([3, 2])),
    "switches": (spaces.Discrete(40), spaces.MultiBinary(4)),
}


def task(kind: str = "box") -> Task:
    seen, taken = SPACES[kind]
    return Task(seen, taken, 2, wander, move, look, (0.5, 9.0))


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_streams_draw_what_numpy_draws() -> None:
    for seed in range(50):
        theirs, stream = generator(seed), stream_of(generator(seed))
        for count in (1, 2, 3, 5, 52, 2**31 + 7, 2**32 - 1):
            assert uniform(stream, -0.6, -0.4) == theirs.uniform(-0.6, -0.4)
            assert integers(stream, count) == theirs.integers(count)
        for count in (1, 2, 52, 156):
            drawn = np.empty(count)
            permutation(stream, drawn)
            np.testing.assert_array_equal(drawn, theirs.permutation(count))


def test_a_generator_continues_from_a_stream() -> None:
    theirs, ours = generator(0), generator(0)
    stream = stream_of(ours)
    assert integers(stream, 7) == theirs.integers(7)  # half a word is unused
    continue_from(ours, stream)
    assert ours.integers(1000, size=9).tolist() == theirs.integers(1000, size=9).tolist()


def test_normal_numbers_have_the_moments_of_the_normal_distribution() -> None:
    stream = stream_of(generator(0))
    drawn = np.array([normal(stream) for _ in range(20_000)])
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert abs((drawn**power).mean() - moment) < 5 * (drawn**power).std() / len(drawn) ** 0.5


def test_other_generators_have_no_stream() -> None:
    with pytest.raises(ValueError, match="a generator of PCG64, got MT19937"):
        stream_of(np.random.Generator(np.random.MT19937(0)))


@pytest.mark.parametrize("kind", SPACES)
def test_machine_code_plays_the_episodes_of_python(kind: str) -> None:
    """Compare row by row, with a time limit of the environment beside that of the task."""
    rows = CompiledVectorEnv(task(kind), 3, max_episode_steps=7, autoreset_mode=AutoresetMode.SAME_STEP)
    alone = [SingleEnv(task(kind)) for _ in range(3)]
    seen, _ = rows.reset(seed=4)
    assert seen in rows.observation_space
    np.testing.assert_array_equal(seen, [env.reset(seed=4 + i)[0] for i, env in enumerate(alone)])
    rows.action_space.seed(0)
    elapsed, ends = [0, 0, 0], 0
    for _ in range(60):
        actions = rows.action_space.sample()
        seen, rewards, terminated, truncated, infos = rows.step(actions)
        for i, env in enumerate(alone):
            last, reward, over, cut, _ = env.step(actions[i])
            elapsed[i] += 1
            assert (rewards[i], terminated[i], truncated[i]) == (reward, over, cut or elapsed[i] == 7)
            if over or elapsed[i] == 7:
                np.testing.assert_array_equal(infos["final_obs"][i], last)
                (last, _), elapsed[i], ends = env.reset(), 0, ends + 1
            np.testing.assert_array_equal(seen[i], last)
    assert ends > 10


def test_copies_of_state_and_streams_resume() -> None:
    env = CompiledVectorEnv(task(), 4, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 4, 2)).astype(np.float32)
    kept = copy.deepcopy([env.rows.state, env.rows.streams, env.rows.elapsed])
    first = [env.step(each)[0] for each in actions]
    for now, then in zip((env.rows.state, env.rows.streams, env.rows.elapsed), kept, strict=True):
        now[:] = then
    np.testing.assert_array_equal(first, [env.step(each)[0] for each in actions])


def test_a_task_ends_an_episode_by_itself() -> None:
    env = CompiledVectorEnv(task("image"), 1, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    for step in range(1, 10):
        *_, terminated, truncated, _ = env.step(np.ones(1, np.int64))
        assert not terminated.any()
        assert truncated.tolist() == [step == 9]


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3, start=1), spaces.Dict(a=spaces.Discrete(2)), spaces.Tuple([spaces.Discrete(2)])]
)
def test_spaces_that_are_not_one_array_are_refused(space: Any) -> None:
    with pytest.raises(ValueError, match=r"a compiled task needs a Box, or Discrete … counting from 0, got "):
        Task(space, spaces.Discrete(2), 1, wander, move, look)


def test_functions_without_a_file_are_compiled_too() -> None:
    names: dict[str, Callable[..., Any]] = {}
    exec("def still(state, action, settings):\n    return 2.0, False, True", names)
    made = Task(spaces.Discrete(9), spaces.Discrete(2), 2, wander, names["still"], look)
    assert len(set(addresses(made))) == 3
    env = CompiledVectorEnv(made, 2)
    env.reset(seed=0)
    _, rewards, terminated, truncated, _ = env.step(np.zeros(2, np.int64))
    assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([2.0] * 2, [False] * 2, [True] * 2)
