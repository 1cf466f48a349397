"""Recurrent PPO: rollouts cut into segments, exact resets, bootstraps with the right memory, saving and loading."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from minrl.agents.ppo import RecurrentPPO
from minrl.cells import CELLS
from minrl.online.likelihood import categorical, gaussian
from minrl.online.rollout import SegmentBuffer


class Recall(gymnasium.Env[Any, Any]):
    """Observations are random; the reward is one where the action is right about the first of the episode.

    Episodes end after 3 to 9 steps, every second one by a time limit.
    """

    def __init__(self, space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = space or spaces.Discrete(2)
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.first = self._observation()
        self.left = int(self.np_random.integers(3, 10))
        self.count += 1
        return self.first, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        assert self.action_space.contains(action), f"{action} is outside {self.action_space}"
        right = float(np.asarray(action).reshape(-1)[0] == (self.first[0] > 0))
        over = self.left == 0
        return self._observation(), right, over and self.count % 2 == 0, over and self.count % 2 == 1, {}

    def _observation(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


def recall(n_envs: int = 3, **options: Any) -> Any:
    return make_vec_env(lambda: Recall(**options), n_envs, seed=0)


def small(env: Any = None, policy: str = "MlpPolicy", **options: Any) -> RecurrentPPO:
    settings: dict[str, Any] = {"n_steps": 24, "batch_size": 24, "n_epochs": 2, "seed": 0, "device": "cpu"}
    settings |= {"policy_kwargs": {"width": 16, **options.pop("policy_kwargs", {})}}
    return RecurrentPPO(policy, env or recall(), **{**settings, **options})


def collected(model: RecurrentPPO) -> SegmentBuffer:
    """The buffer after one rollout, without an update."""
    _, callback = model._setup_learn(10**6)
    callback.on_training_start({}, {})
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


@pytest.mark.parametrize("segment_length", [None, 5, 24])
@pytest.mark.parametrize("cell", CELLS)
def test_first_ratio_is_one_for_every_cell(cell: str, segment_length: int | None) -> None:
    options = {"context": 8} if cell == "transformer" else {}
    model = small(segment_length=segment_length, policy_kwargs={"cell": cell, "cell_options": options})
    model.learn(24 * 3 * 3)
    starts = model.rollout_buffer.episode_starts
    assert 0 < starts[1:].sum() < starts[1:].size  # episodes end inside segments
    assert model.policy.first_ratio_dev <= 1e-5
    assert model.logger.name_to_value["train/first_ratio_dev"] == model.policy.first_ratio_dev


@pytest.mark.parametrize(
    "options", [{"separate_critic": True}, {"previous_action": True, "previous_reward": True}, {"conv": 0, "mlp": 2.0}]
)
def test_first_ratio_is_one_for_every_option(options: dict[str, Any]) -> None:
    model = small(policy_kwargs=options, segment_length=7)
    model.learn(24 * 3 * 2)
    assert model.policy.first_ratio_dev <= 1e-5


def test_a_reset_one_step_late_shows_in_the_first_ratio() -> None:
    model = small()
    buffer = collected(model)
    buffer.episode_starts = np.roll(buffer.episode_starts, 1, axis=0)
    model.train()
    assert model.policy.first_ratio_dev > 1e-3


@pytest.mark.parametrize(
    ("n_steps", "segment_length", "lengths"), [(24, 8, {8}), (25, 8, {6, 7}), (7, 100, {7}), (13, 1, {1})]
)
def test_every_step_comes_once_in_each_epoch(n_steps: int, segment_length: int, lengths: set[int]) -> None:
    model = small(n_steps=n_steps, segment_length=segment_length)
    buffer = collected(model)
    assert set(np.diff(buffer.cuts)) == lengths
    buffer.advantages[:] = np.arange(buffer.advantages.size).reshape(buffer.advantages.shape)
    for _ in range(2):
        batches = list(buffer.get(24))
        seen = torch.cat([batch.advantages for batch in batches])
        assert sorted(seen.tolist()) == list(range(buffer.advantages.size))
        for batch in batches:
            assert batch.observations.reset.shape[1] in lengths
            assert len(batch.advantages) <= max(24, max(lengths))


def test_segments_hold_what_was_seen_and_the_memory_at_their_start() -> None:
    model = small(n_steps=20, segment_length=5)
    buffer = collected(model)
    for batch in buffer.get(5):
        segments = batch.observations
        (observations,) = segments.observations
        found = (buffer.observations == observations[0].numpy()).all(-1)
        ((step, row),) = np.argwhere(found)
        assert step % 5 == 0
        np.testing.assert_array_equal(buffer.observations[step : step + 5, row], observations)
        np.testing.assert_array_equal(buffer.episode_starts[step : step + 5, row] > 0, segments.reset[0])
        # The memory of the segment's start is what single steps from the rollout's start arrive at.
        state = model.policy.initial_state(1)
        for t in range(step):
            obs = torch.from_numpy(buffer.observations[t, row : row + 1])
            reset = torch.tensor([bool(buffer.episode_starts[t, row])])
            with torch.no_grad():
                _, state = model.policy.get_distribution(obs, state, reset)
        torch.testing.assert_close(segments.state, state, rtol=1e-5, atol=1e-6)


def test_advantages_and_bootstrap_equal_the_definition() -> None:
    """GAE (arXiv 1506.02438, equation 16) written out, with V(final observation, memory after the step) at limits."""
    finals: list[dict[int, Any]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            infos, dones = self.locals["infos"], self.locals["dones"]
            finals.append({i: infos[i] for i in np.flatnonzero(dones)})
            return True

    model = small(n_steps=40, gamma=0.9, gae_lambda=0.8)
    _, callback = model._setup_learn(10**6, Watch())
    callback.on_training_start({}, {})
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 40)
    buffer, policy = model.rollout_buffer, model.policy
    truncated = 0
    with torch.no_grad():
        for row in range(3):
            state, nexts, rewards = policy.initial_state(1), [], []
            for t in range(40):
                obs = torch.from_numpy(buffer.observations[t, row : row + 1])
                _, value, _, state = policy(obs, state, torch.tensor([bool(buffer.episode_starts[t, row])]))
                assert float(value) == pytest.approx(buffer.values[t, row], abs=1e-5)
                info = finals[t].get(row)
                reward = float(buffer.rewards[t, row])
                if info is not None and info["TimeLimit.truncated"]:
                    final = torch.from_numpy(info["terminal_observation"][None])
                    bootstrap = float(policy.predict_values(final, state, torch.tensor([False])))
                    assert reward == pytest.approx(round(reward - 0.9 * bootstrap) + 0.9 * bootstrap, abs=1e-5)
                    truncated += 1
                rewards.append(reward)
                nexts.append(info is not None)
            last = float(
                policy.predict_values(
                    torch.from_numpy(model._last_obs[row : row + 1]),
                    state,
                    torch.tensor([nexts[-1]]),  # type: ignore[index]
                )
            )
            advantage = 0.0
            for t in reversed(range(40)):
                after = last if t == 39 else buffer.values[t + 1, row]
                delta = rewards[t] + 0.9 * after * (not nexts[t]) - buffer.values[t, row]
                advantage = delta + 0.9 * 0.8 * (not nexts[t]) * advantage
                assert buffer.advantages[t, row] == pytest.approx(advantage, abs=1e-4)
    assert truncated > 3


def test_memory_goes_on_between_calls_of_learn_and_not_into_another_environment() -> None:
    model = small()
    model.learn(72)
    kept = model._last_state.clone()
    assert kept.abs().sum() > 0
    entering: list[torch.Tensor] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 1:
                entering.append(self.locals["entering"].clone())
            return True

    model.learn(72, Watch(), reset_num_timesteps=False)
    torch.testing.assert_close(entering[0], kept, rtol=0, atol=0)
    model.set_env(recall())
    model.learn(72, Watch(), reset_num_timesteps=False)
    assert not entering[1].any()
    model.learn(72, Watch())
    assert not entering[2].any()


def test_refreshed_states_are_those_of_the_present_weights() -> None:
    model = small(n_steps=20, segment_length=5, state_refresh="epoch")
    buffer = collected(model)
    stored = torch.cat([batch.observations.state for batch in buffer.get(None)])
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    refreshed = torch.cat([batch.observations.state for batch in buffer.get(None)])
    state, expected = buffer.states[0], []
    with torch.no_grad():
        for t in range(20):
            if t % 5 == 0:
                expected.append(state)
            obs, reset = torch.from_numpy(buffer.observations[t]), torch.from_numpy(buffer.episode_starts[t] > 0)
            _, state = model.policy.get_distribution(obs, state, reset)
    # Segments come in random order: each refreshed state is one of those expected, and each of those comes.
    distance = torch.cdist(refreshed, torch.cat(expected))
    assert distance.min(0).values.max() < 1e-4
    assert distance.min(1).values.max() < 1e-4
    assert torch.cdist(stored, torch.cat(expected)).min(1).values.max() > 1e-2


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
    model.learn(144)  # the environment refuses what is out of bounds
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


def test_a_loaded_model_goes_on_as_the_saved_one(tmp_path: Path) -> None:
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
        torch.rand(7)  # what happens in between is of no account
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


def test_numbers_that_are_not_finite_are_refused() -> None:
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


def test_previous_rewards_are_asked_for() -> None:
    model = small(policy_kwargs={"previous_reward": True, "previous_action": True})
    model.learn(72)
    action, state = model.predict(np.zeros((2, 3), np.float32))
    one, _ = model.predict(np.zeros((2, 3), np.float32), state, reward=[0.0, 0.0])
    assert one.shape == action.shape
    with pytest.raises(ValueError, match="reward="):
        model.predict(np.zeros((2, 3), np.float32), state)


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
