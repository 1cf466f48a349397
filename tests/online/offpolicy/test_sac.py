"""Recurrent SAC: contracts of acting and training, and Stable-Baselines3's own for off-policy algorithms."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from noise import Noise
from ppo_models import acts_alike
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from minrl.agents.sac import RecurrentSAC
from minrl.online.offpolicy.losses import chosen, losses
from minrl.online.spaces import fit_spaces

TINY: dict[str, Any] = {
    "learning_starts": 24, "train_freq": 8, "gradient_steps": 2, "batch_size": 32, "segment_length": 8,
    "buffer_size": 400, "seed": 0, "device": "cpu",
}  # fmt: skip
CELL = {"width": 8, "depth": 1, "previous_reward": True}


def small(env: Any = "Pendulum-v1", policy: str = "MlpPolicy", **options: Any) -> RecurrentSAC:
    """Build a tiny model."""
    policy_kwargs = {**CELL, **options.pop("policy_kwargs", {})}
    return RecurrentSAC(policy, env, policy_kwargs=policy_kwargs, **{**TINY, **options})


@pytest.mark.parametrize(
    ("env", "share", "row_state"),
    [
        ("Pendulum-v1", False, "stored"),
        ("CartPole-v1", True, "stored"),
        ("CartPole-v1", False, "burn_in"),
        ("Pendulum-v1", True, "recomputed"),
    ],
)
def test_acting_from_a_carried_state_equals_the_scan(env: str, share: bool, row_state: str) -> None:
    model = small(
        make_vec_env(env, 3), row_state=row_state, burn_in=6 * (row_state == "burn_in"), gradient_steps=0,
        policy_kwargs={"share_trunk": share, "critic_cell": None if share else "minlstm"}, learning_starts=0,
    )  # fmt: skip
    seen: list[Any] = []
    store = model._store_transition
    model._store_transition = lambda *x: (store(*x), seen.append(model._last_state.clone()))[0]  # type: ignore[method-assign, func-returns-value]
    model.learn(240, log_interval=None)
    policy, buffer = model.policy, model.replay_buffer
    policy.set_training_mode(False)
    np.random.seed(0)  # noqa: NPY002
    # From where a row begins, the scan comes to the states that acting came to: here at the newest observation.
    buffer.sizes[:] = np.minimum(buffer.sizes, 200)
    rows = buffer.sample(8 * 60)
    ends = torch.stack(seen).transpose(0, 1)  # (N, T, S)
    state = rows.state[:, : policy.state_size]
    if row_state == "recomputed":
        state = policy.initial_state(len(rows.reset))
    previous = policy.encode_previous(rows.previous_actions.flatten(0, 1), rows.previous_rewards.flatten())
    features = policy._features(rows.observations.flatten(0, 1))[0].unflatten(0, rows.reset.shape)  # type: ignore[union-attr]
    with torch.no_grad():
        previous = policy._no_previous(previous.unflatten(0, rows.reset.shape), rows.reset)
        _, last = policy.trunk.scan(features, previous, state, rows.reset)
    kept = ~rows.final[:, -1] & ~rows.final[:, 0]
    distance = (ends.flatten(0, 1)[None] - last[:, None]).abs().amax(2).amin(1)
    assert kept.sum() > 20
    assert distance[kept].max() < 1e-5


def test_a_reset_cuts_values_and_gradients() -> None:
    model = small()
    model.learn(100, log_interval=None)
    rows = model.replay_buffer.sample(64)
    rows = rows._replace(reset=torch.zeros_like(rows.reset), state=torch.randn_like(rows.state))
    rows.reset[:, 4] = True
    rows.observations.requires_grad_()  # type: ignore[union-attr]
    latents = model.policy.latents(rows)
    for latent in latents[:2]:
        (gradient,) = torch.autograd.grad(latent[:, 4:].square().sum(), rows.observations, retain_graph=True)  # type: ignore[arg-type]
        assert gradient[:, :4].abs().max() == 0
        assert gradient[:, 4:].abs().max() > 0
    apart = rows._replace(
        **{
            name: getattr(rows, name)[:, 4:]
            for name in ("observations", "previous_actions", "previous_rewards", "reset")
        }
    )
    for whole, part in zip(latents[:3], model.policy.latents(apart)[:3], strict=True):
        torch.testing.assert_close(whole[:, 4:], part, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("env", "share"), [("Pendulum-v1", False), ("CartPole-v1", True), ("Pendulum-v1", True)])
def test_losses_reach_their_parameters_alone(env: str, share: bool) -> None:
    model = small(env, policy_kwargs={"share_trunk": share, "n_critics": 3}, n_steps=2)
    model.learn(60, log_interval=None)
    policy = model.policy
    found = losses(policy, model.replay_buffer.sample(64), gamma=0.9, n_steps=2, target_entropy=-1.0)
    groups = [set(map(id, group["params"])) for group in policy.optimizer.param_groups]
    for loss, group in zip(found[:3], groups, strict=True):
        named = {id(p): name for name, p in policy.named_parameters()}
        policy.zero_grad()
        loss.backward(retain_graph=True)
        reached = {id(p) for p in policy.parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert reached, "the loss has no gradient"
        assert reached <= group, [named[i] for i in reached - group]
    assert all(p.requires_grad == (not name.startswith("critic_target")) for name, p in policy.named_parameters())


def test_entropy_of_real_actions_is_that_of_the_distribution() -> None:
    policy = small(Noise("box", "box")).policy.double()
    torch.manual_seed(0)
    latent = torch.randn(50, 8, dtype=torch.float64)
    choice = chosen(policy, latent)
    mean, log_std = policy.parameters_of_actions(latent).chunk(2, dim=1)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    torch.testing.assert_close(choice.log_prob, squashed.log_prob(choice.actions).sum(1))


@pytest.mark.parametrize(("observations", "actions"), [("box", "box"), ("discrete", "discrete"), ("image", "one")])
def test_learns_with_callbacks_and_vectors(observations: str, actions: str, tmp_path: Path) -> None:
    def make() -> Any:
        return Noise(observations, actions)

    policy = "CnnPolicy" if observations == "image" else "MlpPolicy"
    env, other = make_vec_env(make, 2), make_vec_env(make, 1)
    if observations == "box":
        env, other = VecNormalize(env), VecNormalize(other)  # type: ignore[assignment]
    model = small(env, policy, policy_kwargs={"previous_reward": False}, max_grad_norm=1.0)
    callbacks = CallbackList([EvalCallback(other, eval_freq=20, n_eval_episodes=1, verbose=0),
                              CheckpointCallback(20, str(tmp_path), save_replay_buffer=True)])  # fmt: skip
    model.learn(64, callbacks)
    assert model._n_updates == 2 * 3
    assert np.isfinite(evaluate_policy(model, env, 2)[0])
    assert list(tmp_path.glob("*replay_buffer*.pkl"))


def test_dict_observations_and_action_noise() -> None:
    model = small(fit_spaces(Noise("nested", "box")), "MultiInputPolicy",
                  action_noise=NormalActionNoise(np.zeros(2), np.ones(2)))  # fmt: skip
    model.learn(48, log_interval=None)


@pytest.mark.parametrize(
    ("env", "row_state"), [("Pendulum-v1", "stored"), ("CartPole-v1", "zero"), ("Pendulum-v1", "recomputed")]
)
def test_saved_models_act_and_learn_on_alike(env: str, row_state: Any, tmp_path: Path) -> None:
    model = small(make_vec_env(env, 2, seed=0), row_state=row_state, policy_kwargs={"previous_reward": False})
    model.learn(64, log_interval=None)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    models = []
    for _ in range(2):
        loaded = RecurrentSAC.load(tmp_path / "model", make_vec_env(env, 2, seed=7), device="cpu")
        loaded.load_replay_buffer(tmp_path / "replay")
        assert loaded.replay_buffer.size() == model.replay_buffer.size() >= 64
        models.append(loaded)
    observation = model.observation_space.sample()
    assert acts_alike(model, models[0], observation)
    for loaded in models:
        loaded.learn(64, log_interval=None, reset_num_timesteps=False)
    assert models[0]._n_updates > model._n_updates
    for x, y in zip(*(m.policy.parameters() for m in models), strict=True):
        assert torch.equal(x, y)
    (tmp_path / "broken.pkl").write_bytes(b"cos\nsystem\n(S'echo no'\ntR.")
    with pytest.raises(ValueError, match="holds no replay buffer"):
        model.load_replay_buffer(tmp_path / "broken")
    with pytest.raises(ValueError, match="of 2 environments; this model has 3"):
        small(make_vec_env(env, 3), row_state=row_state).load_replay_buffer(tmp_path / "replay")


@pytest.mark.slow
def test_learns_to_choose() -> None:
    """Train where the reward is the sign of the first observation of the episode, which only memory knows."""

    class Recall(gymnasium.Env[Any, Any]):
        observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.cue, self.time = int(self.np_random.integers(2)), 0
            return np.array([2 * self.cue - 1], np.float32), {}

        def step(self, action: Any) -> Any:
            self.time += 1
            done = self.time == 4
            return np.zeros(1, np.float32), float(done and action == self.cue), done, False, {}

    model = small(
        make_vec_env(Recall, 4, seed=0), learning_rate=1e-2, gradient_steps=4, batch_size=256, buffer_size=10_000,
        segment_length=16, policy_kwargs={"width": 16, "previous_reward": False}, gamma=0.9, ent_coef="auto_0.1",
    )  # fmt: skip
    model.learn(3000, log_interval=None)
    assert evaluate_policy(model, make_vec_env(Recall, 4, seed=99), 40)[0] > 0.9


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("row_state", {"row_state": "sorted"}),
        ("burn_in", {"burn_in": 4}),
        ("segment_length", {"segment_length": 1}),
        ("buffer_size", {"buffer_size": 12}),
        ("n_steps", {"n_steps": 0}),
        ("ent_coef", {"ent_coef": "automatic"}),
        ("target_entropy", {"target_entropy": "none"}),
        ("no option", {"policy_kwargs": {"widht": 3}}),
        ("share_trunk", {"policy_kwargs": {"share_trunk": True, "critic_cell": "gru"}}),
        ("bounded Box or a Discrete", {"env": Noise("box", "multidiscrete")}),
    ],
)
def test_impossible_settings_are_one_line(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message) as found:
        small(**options)
    assert "\n" not in str(found.value)
