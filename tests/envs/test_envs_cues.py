"""T-Maze, Delayed Cue and Parity: policies with memory are right, policies without are at chance."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

import minrl.envs

__all__ = ["minrl"]

TMAZE, CUE, PARITY = "minrl/TMaze-v0", "minrl/DelayedCue-v0", "minrl/Parity-v0"
RIGHT, UP, LEFT, DOWN = range(4)
Policy = Callable[[list[int]], int]


def play(env: Any, policy: Policy, seed: int) -> tuple[list[int], list[float]]:
    """Play one episode of a policy that sees all observations so far; return observations and rewards."""
    observation, _ = env.reset(seed=seed)
    seen, rewards, over = [int(observation)], [], False
    while not over:
        observation, reward, over, truncated, _ = env.step(policy(seen))
        assert not truncated
        seen.append(int(observation))
        rewards.append(reward)
    return seen, rewards


def through_the_maze(turn: Callable[[list[int]], int]) -> Policy:
    return lambda seen: turn(seen) if seen[-1] == 1 else RIGHT


@pytest.mark.parametrize("length", [1, 10, 1000])
def test_following_the_cue_earns_one(length: int) -> None:
    env = gymnasium.make(TMAZE, length=length)
    sides = set()
    for seed in range(10):
        seen, rewards = play(env, through_the_maze(lambda seen: UP if seen[0] == 2 else DOWN), seed)
        assert seen[0] in (2, 3)
        assert seen[1:length] == [0] * (length - 1)
        assert seen[length] == 1
        assert rewards == [0.0] * length + [1.0]
        sides.add(seen[0])
    assert sides == {2, 3}


def test_ignoring_the_cue_is_right_half_of_the_time() -> None:
    env = gymnasium.make(TMAZE)
    returns = [sum(play(env, through_the_maze(lambda seen: UP), seed)[1]) for seed in range(200)]
    assert set(returns) == {0.0, 1.0}
    assert 0.35 < np.mean(returns) < 0.65


def test_steps_that_do_not_advance_cost_reward() -> None:
    """Play an episode without moving: it costs one in all and a step more, as the junction is never reached."""
    env = gymnasium.make(TMAZE, length=20)
    for action in (UP, DOWN, LEFT):
        _, rewards = play(env, lambda seen, action=action: action, 0)
        assert rewards == [pytest.approx(-1 / 20)] * 21


def test_the_active_maze_shows_its_cue_behind_the_start() -> None:
    env = gymnasium.make(TMAZE, length=5, active=True, detour=2)
    for seed in range(6):
        seen, rewards = play(env, through_the_maze(lambda seen: UP), seed)
        assert set(seen) <= {0, 1}  # straight on, the cue is never visible

        def back_first(seen: list[int]) -> int:
            cue = [x for x in seen if x > 1]
            if seen[-1] == 1:
                return UP if cue[0] == 2 else DOWN
            return RIGHT if cue else LEFT

        seen, rewards = play(env, back_first, seed)
        assert rewards == [0.0] * 9 + [1.0]  # 2 back, 7 forth, 1 to choose: the whole time limit


@pytest.mark.parametrize(("delay", "cues"), [(0, 2), (20, 4), (300, 7)])
def test_the_cue_is_named_at_the_signal(delay: int, cues: int) -> None:
    env = gymnasium.make(CUE, delay=delay, cues=cues)
    named = set()
    for seed in range(40):
        seen, rewards = play(env, lambda seen: seen[0], seed)
        assert seen[1 : 1 + delay] == [cues] * delay
        assert seen[1 + delay] == cues + 1
        assert rewards == [0.0] * (1 + delay) + [1.0]
        named.add(seen[0])
    assert named == set(range(cues))
    assert np.mean([sum(play(env, lambda seen: 0, seed)[1]) for seed in range(300)]) == pytest.approx(1 / cues, abs=0.1)


def test_jitter_varies_the_delay() -> None:
    env = gymnasium.make(CUE, delay=3, jitter=4)
    waits = {len(play(env, lambda seen: seen[0], seed)[1]) for seed in range(100)}
    assert waits == {5, 6, 7, 8, 9}


@pytest.mark.parametrize("length", [1, 2, 40])
def test_parity_of_all_bits(length: int) -> None:
    env = gymnasium.make(PARITY, length=length)
    ones = 0
    for seed in range(20):
        seen, rewards = play(env, lambda seen: sum(seen) % 2, seed)
        assert sum(rewards) == pytest.approx(1.0)
        assert len(rewards) == length
        ones += sum(seen[:length])
        assert sum(play(env, lambda seen: (sum(seen) + 1) % 2, seed)[1]) == pytest.approx(-1.0)
    assert 0.2 < ones / (20 * length) < 0.8


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (TMAZE, {"length": 0}, "length must be at least 1, got 0"),
        (TMAZE, {"active": True, "detour": 0}, "detour must be at least 1, got 0"),
        (CUE, {"cues": 1}, "cues must be at least 2, got 1"),
        (CUE, {"delay": -1}, "must not be negative, got -1 and 0"),
        (PARITY, {"length": 0}, "length must be at least 1, got 0"),
    ],
)
def test_impossible_tasks_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gymnasium.make(name, **options)
    with pytest.raises(ValueError, match=message):
        gymnasium.make_vec(name, 2, **options)


def test_misuse_is_answered_in_one_line() -> None:
    env = gymnasium.make(PARITY, length=1, disable_env_checker=True).unwrapped
    with pytest.raises(ValueError, match="the episode is over: call reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"the action must lie in Discrete\(2\), got 2"):
        env.step(2)
    env.step(0)
    with pytest.raises(ValueError, match="the episode is over: call reset"):
        env.step(0)
