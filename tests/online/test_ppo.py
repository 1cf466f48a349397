"""Recurrent PPO: rollouts cut into segments, exact resets, bootstraps from the right state."""

from typing import Any

import numpy as np
import pytest
import torch
from recall import collected, recall, small
from stable_baselines3.common.callbacks import BaseCallback

from minrl.cells import CELLS


@pytest.mark.parametrize(
    ("cell", "segment_length"), [*((cell, 5) for cell in CELLS), ("mingru", None), ("mingru", 24), ("lstm", None)]
)
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


def test_segments_hold_observations_and_their_first_state() -> None:
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
        # Single steps from the rollout's start arrive at the state of the segment's start.
        state = model.policy.initial_state(1)
        for t in range(step):
            obs = torch.from_numpy(buffer.observations[t, row : row + 1])
            reset = torch.tensor([bool(buffer.episode_starts[t, row])])
            with torch.no_grad():
                _, state = model.policy.get_distribution(obs, state, reset)
        torch.testing.assert_close(segments.state, state, rtol=1e-5, atol=1e-6)


def test_advantages_and_bootstrap_equal_the_definition() -> None:
    """Compute GAE (arXiv 1506.02438, equation 16), with V(final observation, state after the step) at limits."""
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


def test_the_state_continues_between_calls_of_learn_and_not_into_another_environment() -> None:
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
    # Segments come in random order: refreshed and expected states are the same set.
    distance = torch.cdist(refreshed, torch.cat(expected))
    assert distance.min(0).values.max() < 1e-4
    assert distance.min(1).values.max() < 1e-4
    assert torch.cdist(stored, torch.cat(expected)).min(1).values.max() > 1e-2
