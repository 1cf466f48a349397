"""EnvPool behind the same adapter; skipped where it is not installed."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from vector_worlds import LIMIT, N, episodes_of

from minrl.online.vector import as_vec_env

envpool = pytest.importorskip("envpool")


@pytest.fixture
def pool() -> Any:
    return envpool.make("CartPole-v1", env_type="gymnasium", num_envs=N, seed=3, max_episode_steps=LIMIT)


@pytest.mark.filterwarnings("ignore:EnvPool is seeded by envpool.make")
def test_envpool_episodes(pool: Any) -> None:
    environment = as_vec_env(pool)
    episodes = episodes_of(environment)
    assert {episode.time_limit for episode in episodes} == {True, False}
    for episode in episodes:
        assert episode.total == episode.length == sum(episode.rewards)
        assert np.abs(episode.observations[0]).max() <= 0.05, "CartPole starts within 0.05 of the middle"
        assert episode.time_limit or np.abs(episode.final[2]) > 0.2095, "the pole has fallen"
    with pytest.warns(UserWarning, match=r"envpool\.make\(\.\.\., seed=SEED\)"):
        assert environment.seed(0) == [None] * N
    returns, lengths = evaluate_policy(
        PPO("MlpPolicy", environment, n_steps=32, batch_size=48, device="cpu").learn(32 * N),
        environment,
        n_eval_episodes=7,
        return_episode_rewards=True,
    )
    assert returns == lengths


def test_envpool_games_outlast_lives() -> None:
    """Compare with Monitor beneath Atari's wrappers: a life ends the learner's episode, a game the reported one."""
    pool = envpool.make("SpaceInvaders-v5", "gymnasium", num_envs=2, seed=0, episodic_life=True, reward_clip=True)
    environment = as_vec_env(pool)
    environment.reset()
    generator = np.random.default_rng(0)
    lives, steps, score, games = np.zeros(2, dtype=int), np.zeros(2, dtype=int), np.zeros(2), 0
    while games < 2:
        _, rewards, dones, infos = environment.step(generator.integers(0, 6, 2))
        assert rewards.max() <= 1.0
        steps += ~environment.filler
        score += [info.get("reward", 0.0) for info in infos]
        lives += dones & ~environment.filler
        for i in range(2):
            if "episode" in infos[i]:
                episode = infos[i]["episode"]
                assert (infos[i]["lives"], episode["l"], episode["r"]) == (0, steps[i], score[i])
                assert lives[i] == 3
                assert score[i] >= 5.0, "an invader pays 5 or more"
                lives[i] = steps[i] = score[i] = 0
                games += 1


def test_envpool_in_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="leave batch_size out"):
        as_vec_env(envpool.make("CartPole-v1", env_type="gymnasium", num_envs=4, batch_size=2))
    with pytest.raises(ValueError, match='env_type="gymnasium"'):
        as_vec_env(envpool.make("CartPole-v1", env_type="dm", num_envs=4))
