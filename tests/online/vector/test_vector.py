"""Vector environments as Stable-Baselines3 sees them: the episodes of DummyVecEnv, in every autoreset mode.

Shapes: N environments, T steps.
"""

import warnings
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformObservation
from gymnasium.wrappers.vector import ClipReward, DictInfoToList, RecordEpisodeStatistics
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize
from vector_worlds import (
    LIMIT,
    Lives,
    N,
    Plain,
    Room,
    actions_of,
    assert_same,
    cartpole,
    episodes_of,
    monitored,
    native,
    sync,
)

from minrl.online.vector import VectorEnvironment, as_vec_env

MODES = list(AutoresetMode)


@pytest.mark.parametrize("make", [cartpole, Room])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("copy", [True, False])
def test_episodes_are_those_of_dummy_vec_env(mode: AutoresetMode, make: Callable[[], Any], copy: bool) -> None:
    expected = episodes_of(monitored(make))
    assert {(episode.environment, episode.time_limit) for episode in expected} >= {(0, True), (N - 1, False)}
    assert_same(episodes_of(sync(mode, make, copy=copy)), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shared", [True, False])
def test_episodes_in_other_processes_are_the_same(mode: AutoresetMode, shared: bool) -> None:
    vector = AsyncVectorEnv([cartpole] * N, autoreset_mode=mode, shared_memory=shared, copy=not shared)
    with closing(VectorEnvironment(vector)) as environment:
        assert_same(episodes_of(environment, steps=60), episodes_of(monitored(), steps=60))


def test_native_episodes_follow_the_physics_of_the_single_environment() -> None:
    episodes = episodes_of(VectorEnvironment(native()))
    assert {episode.time_limit for episode in episodes} == {True, False}
    start = [0] * N
    for episode in episodes:
        single = cartpole()
        single.reset(seed=0)
        single.unwrapped.state = episode.observations[0].astype(np.float64)  # type: ignore[attr-defined]
        column = actions_of(spaces.Discrete(2))[start[episode.environment] :, episode.environment]
        for action in column[: episode.length]:
            final, _, terminated, truncated, _ = single.step(action)
        assert terminated or truncated
        assert (truncated and not terminated) is episode.time_limit
        np.testing.assert_allclose(episode.final, final, atol=1e-5)
        assert episode.total == episode.length == len(episode.rewards)
        start[episode.environment] += episode.length


def test_next_step_shows_the_final_observation_then_a_filler() -> None:
    environment = sync(AutoresetMode.NEXT_STEP)
    stacked = VecFrameStack(environment, 2)
    stacked.seed(0)
    stacked.reset()
    assert not stacked.filler.any()
    ended, fillers = np.zeros(N, dtype=bool), 0
    for action in actions_of(environment.action_space):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            observations, _, dones, infos = stacked.step(action)
        np.testing.assert_array_equal(stacked.filler, ended)
        np.testing.assert_array_equal(stacked.filler, [bool(info.get("filler")) for info in infos])
        for i in range(N):
            if dones[i] and not ended[i]:
                np.testing.assert_array_equal(infos[i]["terminal_observation"][-4:], observations[i, -4:])
            if ended[i]:
                assert np.abs(observations[i, -4:]).max() <= 0.05, "CartPole starts within 0.05 of the middle"
                assert not observations[i, :-4].any(), "the filler's done empties the stack"
        fillers += int(ended.sum())
        ended = dones & ~ended
    assert fillers > 5


@pytest.mark.parametrize("mode", MODES)
def test_infos_go_to_their_environments(mode: AutoresetMode) -> None:
    single, environment = monitored(Room), sync(mode, Room)
    for each in (single, environment):
        each.seed(3)
        each.reset()
    assert environment.reset_infos == single.reset_infos
    for action in actions_of(single.action_space):
        expected, found = single.step(action), environment.step(action)
        for ours, theirs in zip(found[3], expected[3], strict=True):
            for key in ("time", "inner"):
                assert ours.get(key) == theirs.get(key)
        if expected[2].any():
            break
    if mode is AutoresetMode.NEXT_STEP:
        environment.step(action)
    done = np.flatnonzero(expected[2])
    assert [environment.reset_infos[i] for i in done] == [single.reset_infos[i] for i in done]


def test_lists_of_infos_pass() -> None:
    vector = DictInfoToList(SyncVectorEnv([cartpole] * N, autoreset_mode=AutoresetMode.SAME_STEP))
    assert_same(episodes_of(VectorEnvironment(vector)), episodes_of(monitored()))


@pytest.mark.parametrize("mode", MODES)
def test_vec_normalize_and_frame_stack(mode: AutoresetMode) -> None:
    """Compare with DummyVecEnv, whose statistics are equal where no filler comes between."""

    def wrapped(environment: VecEnv) -> VecEnv:
        return VecFrameStack(VecNormalize(environment, gamma=0.9), 3)

    found, expected = episodes_of(wrapped(sync(mode))), episodes_of(wrapped(monitored()))
    if mode is AutoresetMode.NEXT_STEP:
        assert [episode.total for episode in found] == [episode.total for episode in expected]
        assert np.isfinite([episode.final for episode in found]).all()
    else:
        assert_same(found, expected)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_vec_monitor(mode: AutoresetMode) -> None:
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        environment = VecMonitor(sync(mode))
    assert_same(episodes_of(environment), episodes_of(monitored()))


ENVIRONMENTS: dict[str, Callable[[], Any]] = {
    **{mode.name: partial(sync, mode) for mode in MODES},
    "native": lambda: VectorEnvironment(native()),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize(("algorithm", "options"), [(PPO, {"batch_size": 48}), (A2C, {})])
def test_stable_baselines_learns_on_it(name: str, algorithm: Any, options: dict[str, Any]) -> None:
    environment = ENVIRONMENTS[name]()
    model = algorithm("MlpPolicy", environment, n_steps=32, seed=0, device="cpu", **options).learn(32 * N * 2)
    assert model.num_timesteps == 32 * N * 2
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    assert len(lengths) > 5
    assert 1 < min(lengths) <= max(lengths) == LIMIT
    returns, steps = evaluate_policy(model, ENVIRONMENTS[name](), n_eval_episodes=7, return_episode_rewards=True)
    assert len(returns) == 7
    assert returns == steps, "CartPole pays 1 per step: a filler would break this"


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_ppo_reaches_the_same_weights_as_on_dummy_vec_env(mode: AutoresetMode) -> None:
    """Check observations, time-limit bootstrap and episode starts through the weights."""
    weights = []
    for environment in (sync(mode), monitored()):
        model = PPO("MlpPolicy", environment, n_steps=64, batch_size=48, n_epochs=2, seed=0, device="cpu").learn(400)
        weights.append([parameter.detach().numpy() for parameter in model.policy.parameters()])
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_images_and_dictionaries_train() -> None:
    environment = sync(AutoresetMode.NEXT_STEP, Room)
    model = PPO("MultiInputPolicy", environment, n_steps=16, batch_size=48, n_epochs=1, device="cpu")
    assert model.env.observation_space["image"].shape == (1, 36, 36), "SB3 moves the channels to the front"
    model.learn(16 * N)


def test_monitors_inside_reward_wrappers_report_the_true_return() -> None:
    inner = SyncVectorEnv([cartpole] * N, autoreset_mode=AutoresetMode.NEXT_STEP)
    clipped = VectorEnvironment(ClipReward(RecordEpisodeStatistics(inner), max_reward=0.5))
    inside = SyncVectorEnv([lambda: Monitor(cartpole())] * N, autoreset_mode=AutoresetMode.SAME_STEP)
    for environment in (clipped, VectorEnvironment(ClipReward(inside, max_reward=0.5))):
        for ours, theirs in zip(episodes_of(environment), episodes_of(monitored()), strict=True):
            assert (ours.total, ours.length, sum(ours.rewards)) == (theirs.total, theirs.length, theirs.total / 2)


@pytest.mark.parametrize(
    "layers", [(RecordEpisodeStatistics,), (RecordEpisodeStatistics, partial(ClipReward, max_reward=9))]
)
@pytest.mark.parametrize("mode", MODES)
def test_a_recorder_of_vector_episodes_changes_no_count(mode: AutoresetMode, layers: Any) -> None:
    """Compare with Stable-Baselines3's Monitor of each environment."""
    vector: Any = SyncVectorEnv([cartpole] * N, autoreset_mode=mode)
    for layer in layers:
        vector = layer(vector)
    assert_same(episodes_of(VectorEnvironment(vector)), episodes_of(monitored()))


def test_seeds_and_options_go_to_the_next_reset_only() -> None:
    environment, single = sync(AutoresetMode.SAME_STEP, Room), monitored(Room)
    assert list(environment.seed(11)) == [11, 12, 13]
    single.seed(11)
    for each in (environment, single):
        each.set_options({"time": 5})
    first, expected = environment.reset(), single.reset()
    np.testing.assert_array_equal(first["clock"], expected["clock"])
    assert (first["clock"][:, 0] == 5).all()
    second = environment.reset()
    assert (second["clock"][:, 0] == 0).all()
    assert (second["clock"][:, 1] != first["clock"][:, 1]).all()
    environment.set_options([{"time": 1}, {}, {}])
    with pytest.raises(ValueError, match="one set of reset options"):
        environment.reset()


def test_reset_forgets_the_running_episode() -> None:
    environment = sync(AutoresetMode.NEXT_STEP)
    environment.reset()
    while not environment.step(np.ones(N, dtype=int))[2].any():
        pass
    environment.reset()
    _, _, _, infos = environment.step(np.ones(N, dtype=int))
    assert not environment.filler.any()
    assert not any(infos)
    while not (ended := [info["episode"] for info in infos if "episode" in info]):
        _, _, _, infos = environment.step(np.ones(N, dtype=int))
    assert max(episode["l"] for episode in ended) <= LIMIT


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_buffers_are_copied_and_nan_rewards_pass(dtype: str) -> None:
    environment = VectorEnvironment(Plain(dtype=dtype), autoreset=AutoresetMode.SAME_STEP)
    seen = [environment.reset()]
    for _ in range(3):
        observations, rewards, _, infos = environment.step(np.zeros(N, dtype=int))
        seen.append(observations)
    assert [float(observation[0, 0]) for observation in seen] == [0.0, 1.0, 2.0, 3.0]
    assert all(observation.dtype == np.float32 for observation in seen)
    assert np.isnan(rewards).all()
    assert infos == [{"row": i, "all": "shared"} for i in range(N)]
    with pytest.raises(ValueError, match="no final_obs from Plain"):
        environment.step(np.zeros(N, dtype=int))


def test_a_filler_step_has_no_reward() -> None:
    environment = as_vec_env(Plain(AutoresetMode.NEXT_STEP))
    environment.reset()
    rewards = [environment.step(np.zeros(N, dtype=int))[1].tolist() for _ in range(5)]
    np.testing.assert_array_equal(rewards, [[np.nan] * N] * 4 + [[0.0] * N])


@pytest.mark.parametrize("mode", MODES)
def test_final_observations_have_the_dtype_of_the_space(mode: AutoresetMode) -> None:
    def loose() -> Any:
        return TransformObservation(cartpole(), lambda observation: observation.astype(np.float64), None)

    assert {episode.final.dtype for episode in episodes_of(sync(mode, loose))} == {np.dtype(np.float32)}


def test_a_game_of_several_lives_is_one_episode() -> None:
    def games(environment: VecEnv) -> list[tuple[int, int, float]]:
        environment.seed(0)
        environment.reset()
        steps = [environment.step(action)[3] for action in actions_of(environment.action_space)]
        ends = [(i, info["episode"]) for infos in steps for i, info in enumerate(infos) if "episode" in info]
        return [(i, episode["l"], episode["r"]) for i, episode in ends]

    def make() -> Any:
        return Lives(Monitor(cartpole()))

    expected = games(DummyVecEnv([make] * N))
    assert max(length for _, length, _ in expected) == LIMIT
    assert games(sync(AutoresetMode.SAME_STEP, make)) == games(sync(AutoresetMode.DISABLED, make)) == expected
