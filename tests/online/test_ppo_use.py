"""Recurrent PPO: every action space, seeds, saving and loading, and inputs that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from recall import Recall, recall, small
from stable_baselines3.common.callbacks import EvalCallback, EveryNTimesteps
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from minrl.agents.ppo import RecurrentPPO
from minrl.online.likelihood import categorical, gaussian, sampled


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-1, 2, (2,), np.float32),
        spaces.Box(0, 1, (1, 2), np.float32),
    ],
)
def test_every_action_space_is_learned_and_predicted(space: spaces.Space[Any]) -> None:
    model = small(recall(space=space), policy_kwargs={"previous_action": True})
    model.learn(144)
    obs = model.observation_space.sample()
    action, _state = model.predict(obs)
    assert space.contains(action)
    again, _ = model.predict(np.stack([obs, obs]), None, np.ones(2, bool), deterministic=True)
    assert again.shape == (2, *space.shape)
    evaluate_policy(model, recall(2, space=space), n_eval_episodes=4)


def test_squashed_actions_are_in_bounds_in_rollouts_and_in_predict() -> None:
    space = spaces.Box(-3, 5, (1,), np.float32)
    model = small(recall(space=space), use_sde=True, policy_kwargs={"squash_output": True})
    model.learn(144)  # the environment refuses actions out of bounds
    state: Any = None
    with torch.no_grad():
        model.policy.log_std.fill_(1.0)
    model.policy.reset_noise(1)
    seen = []
    for _ in range(50):
        action, state = model.predict(model.observation_space.sample(), state)
        seen.append(float(action[0]))
    assert -3 <= min(seen) < -1.5
    assert 3 < max(seen) <= 5


def test_minibatches_of_one_step_give_no_nan() -> None:
    model = small(recall(1), n_steps=5, batch_size=2, segment_length=1)
    model.learn(20)
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())


def test_equal_seeds_give_equal_weights() -> None:
    first, second, other = (small(recall(), seed=seed).learn(216).policy.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_loaded_model_continues_like_the_saved_one(tmp_path: Path) -> None:
    model = small(recall(), learning_rate=lambda left: 1e-3 * left)
    model.learn(144)
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", env=recall(), device="cpu")
    obs = np.random.default_rng(0).uniform(-1, 1, (4, 3)).astype(np.float32)
    states: list[Any] = [None, None]
    for _ in range(3):
        actions = []
        for i, each in enumerate((model, loaded)):
            action, states[i] = each.predict(obs, states[i], deterministic=True)
            actions.append(action)
        np.testing.assert_array_equal(actions[0], actions[1])
        np.testing.assert_array_equal(states[0][0], states[1][0])
    torch.testing.assert_close(loaded._last_state, model._last_state, rtol=0, atol=0)
    again = RecurrentPPO.load(tmp_path / "model", env=recall(), device="cpu")
    for each in (loaded, again):
        torch.rand(7)  # draws in between have no effect
        each.learn(144, reset_num_timesteps=False)
        assert each.num_timesteps == 288
    weights, others = loaded.policy.state_dict(), again.policy.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_loaded_model_takes_another_number_of_environments(tmp_path: Path) -> None:
    small().learn(72).save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", env=recall(5))
    loaded.learn(240, reset_num_timesteps=False)
    assert loaded._last_state.shape[0] == 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy_kwargs": {"cell": "mingur"}}, 'unknown cell "mingur"; did you mean "mingru"'),
        ({"policy_kwargs": {"widht": 3}}, 'no option "widht"; did you mean "width"'),
        ({"policy_kwargs": {"share_features_extractor": False}}, "separate_critic=True"),
        ({"segment_length": 0}, "segment_length must be at least 1"),
        ({"state_refresh": "always"}, "state_refresh must be"),
    ],
)
def test_bad_settings_are_refused_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        small(**wrong)
    assert "\n" not in str(caught.value)


def test_bad_input_to_predict_is_refused_in_one_line() -> None:
    model = small()
    obs = np.zeros((2, 3), np.float32)
    _, state = model.predict(obs)
    with pytest.raises(ValueError, match="observation shape"):
        model.predict(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="state must have shape"):
        model.predict(obs[:1], state)
    with pytest.raises(ValueError, match="state must have shape"):
        model.predict(obs, (state[0][:, 1:],))
    with pytest.raises(ValueError, match="episode_start has 3"):
        model.predict(obs, state, np.zeros(3, bool))
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(recall(2))


def test_values_that_are_not_finite_are_refused() -> None:
    class Broken(Recall):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            obs, reward, *rest = super().step(action)
            return obs, float("nan") if self.count == 2 else reward, *rest

    class Blind(Recall):
        def _observation(self) -> Any:
            return super()._observation() * (np.nan if self.count == 2 else 1)

    with pytest.raises(ValueError, match=r"environment \d returned the reward nan at step"):
        small(DummyVecEnv([Recall, Broken])).learn(200)
    with pytest.raises(ValueError, match="environment 1 returned an 'observation' that is not finite"):
        small(DummyVecEnv([Recall, Blind])).learn(200)


def test_previous_rewards_are_required() -> None:
    model = small(policy_kwargs={"previous_reward": True, "previous_action": True})
    model.learn(72)
    action, state = model.predict(np.zeros((2, 3), np.float32))
    one, _ = model.predict(np.zeros((2, 3), np.float32), state, reward=[0.0, 0.0])
    assert one.shape == action.shape
    with pytest.raises(ValueError, match="reward="):
        model.predict(np.zeros((2, 3), np.float32), state)
    with pytest.raises(ValueError, match="PreviousReward"):
        model.learn(72, [EveryNTimesteps(10, EvalCallback(recall(1), verbose=0))])


def test_evaluation_callback_takes_another_number_of_environments(tmp_path: Path) -> None:
    callback = EvalCallback(recall(2), n_eval_episodes=3, eval_freq=20, log_path=str(tmp_path), verbose=0)
    small().learn(144, callback)
    assert len(np.load(tmp_path / "evaluations.npz")["results"]) == 2


def test_likelihoods_equal_torchs() -> None:
    logits, log_std = torch.randn(5, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    choice, mean, point = torch.randint(4, (5,)), torch.randn(5, 3).double(), torch.randn(5, 3).double()
    reference = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(categorical(logits, choice), (reference.log_prob(choice), reference.entropy()))
    normal = torch.distributions.Normal(mean, log_std.exp())
    wanted = (normal.log_prob(point).sum(1), normal.entropy().sum(1))
    torch.testing.assert_close(gaussian(mean, log_std, point), wanted)


def test_samples_are_drawn_as_stable_baselines3_draws_them() -> None:
    for space in (spaces.Discrete(5), spaces.Box(-1, 1, (3,), np.float32)):
        policy = small(recall(space=space)).policy
        with torch.no_grad():
            policy.action_net.weight.mul_(100)
            latent = torch.randn(40, 16)
            torch.manual_seed(1)
            actions, log_prob = sampled(policy, latent, False)
            torch.manual_seed(1)
            reference = policy._get_action_dist_from_latent(latent)
            wanted = reference.get_actions(deterministic=False)
            torch.testing.assert_close(actions, wanted)
            torch.testing.assert_close(log_prob, reference.log_prob(wanted))
            likeliest, _ = sampled(policy, latent, True)
            torch.testing.assert_close(likeliest, reference.get_actions(deterministic=True))
