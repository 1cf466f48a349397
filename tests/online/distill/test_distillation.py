"""Distillation: segments, labels, losses, mixing of actions, and what it refuses."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from minrl.agent import Actor, Moment
from minrl.agents.distill import Distillation
from minrl.cells import CELLS
from minrl.data import EnvironmentInfo
from minrl.data.task import Task
from minrl.online.distill.losses import imitation, reinforcement
from minrl.online.distill.teacher import Teacher, teacher_space
from tests.helpers.recall import Recall


class Beside(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Recall, with what has to be remembered as a key "state" that only the teacher sees."""

    def __init__(self, space: Any = None) -> None:
        super().__init__(Recall(space))
        seen = self.env.observation_space
        self.observation_space = spaces.Dict({"observation": seen, "state": seen})

    def observation(self, observation: Any) -> Any:
        return {"observation": observation, "state": self.env.unwrapped.first}  # type: ignore[attr-defined]


class Knows(Actor):
    """Teacher that acts by the sign of the first number that it sees; it counts its steps as a hidden state."""

    name, state_size, width = "knows", 1, 1

    def initial_state(self, batch_size: int, target_return: Any = None) -> Tensor:
        return torch.zeros(batch_size, 1)

    def act(self, moment: Moment, state: Tensor, *, deterministic: bool = True) -> tuple[Tensor, Tensor]:
        state = state.masked_fill(moment.episode_start.unsqueeze(1), 0.0) + 1
        right = (moment.observation[:, 0] > 0).float()
        if isinstance(self.task.action_space, spaces.Box):
            return right.unsqueeze(1) * torch.ones(1, self.task.action_size), state
        return torch.stack([1 - right, right], dim=1), state


def knows(space: Any = None) -> Knows:
    seen = Beside(space).observation_space["state"]  # type: ignore[index]
    return Knows(None, Task.in_environment(EnvironmentInfo("Recall"), seen, space or spaces.Discrete(2)))


def student(teacher: Any = None, env: Any = None, space: Any = None, **options: Any) -> Distillation:
    kwargs = {"width": 8, "depth": 1, "critic_keys": ["state"], **options.pop("policy_kwargs", {})}
    settings: dict[str, Any] = {"n_steps": 24, "batch_size": 24, "segment_length": 12, "n_epochs": 1, "seed": 0}
    return Distillation(
        "MultiInputPolicy", env or make_vec_env(lambda: Beside(space), 3, seed=0), teacher or knows(space),
        teacher_keys=["state"], device="cpu", policy_kwargs=kwargs, **settings | options,
    )  # fmt: skip


def rollout(model: Distillation) -> Any:
    _, callback = model._setup_learn(10**6)
    callback.on_training_start({}, {})
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


def columns(buffer: Any) -> tuple[Any, Any]:
    """Return the labels (T, n_envs) and whether the student acted."""
    return buffer.reference[..., 0].numpy(), buffer.reference[..., -1].numpy() > 0


@pytest.mark.parametrize(
    "cell", [pytest.param(c, marks=[pytest.mark.slow] * (c not in ("mingru", "lru"))) for c in CELLS]
)
def test_segments_are_the_steps_with_resets_and_a_carried_state(cell: str) -> None:
    """Check for each cell: log-likelihoods and states of the scan are those of acting, whoever acted; resets cut."""
    model = student(policy_kwargs={"cell": cell}, ppo_coef=0.5, beta=0.5)
    buffer, kept, policy = rollout(model), model.replay_buffer, model.policy
    labels, own = columns(buffer)
    assert 0 < own.mean() < 1
    np.testing.assert_array_equal(buffer.actions[..., 0][~own], labels[~own])
    np.testing.assert_array_equal(labels, buffer.observations["state"][..., 0] > 0)
    kept.add(buffer, policy)
    stored = kept.parts["state"]
    kept.refresh(policy)
    torch.testing.assert_close(kept.parts["state"], stored, rtol=1e-4, atol=1e-5)
    segments, _ = kept.rows(slice(None))
    latent, _ = policy.scan_actor(segments)
    garbage = segments.observations["observation"].clone()  # type: ignore[index]
    row, t = (int(x) for x in segments.reset[:, 1:].nonzero()[0] + torch.tensor([0, 1]))
    garbage[row, :t] = 9.0
    other, _ = policy.scan_actor(segments._replace(observations={"observation": garbage}))
    torch.testing.assert_close(other[row, t:], latent[row, t:], rtol=0, atol=0)
    kept.parts = {}
    model.train()
    assert policy.first_ratio_dev < 1e-5


def test_teacher_acts_at_first_and_the_student_at_the_end() -> None:
    for beta in (1.0, 0.0):
        model = student(beta=beta, beta_steps=10**9)
        buffer = rollout(model)
        labels, own = columns(buffer)
        assert own.all() if beta == 0 else not own.any()
        assert (buffer.actions[..., 0][~own] == labels[~own]).all()
    # Without PPO's loss the student takes its likeliest action.
    model.replay_buffer.add(buffer, model.policy)
    segments, _ = model.replay_buffer.rows(slice(None))
    mode = model.policy.action_net(model.policy.scan_actor(segments)[0]).argmax(2)
    assert torch.equal(mode.float(), buffer.groups()[0].actions[..., 0])
    assert [student(beta_steps=100).share(), student(beta=0.5, beta_steps=0).share()] == [1.0, 0.0]


def test_trajectories_are_kept_up_to_the_capacity_with_the_newest_rollout() -> None:
    model = student(buffer_size=24 * 3 * 2)
    model.learn(24 * 3 * 5)
    assert len(model.replay_buffer) == 2 * 3 * 2
    newest = model.rollout_buffer.groups()[0]
    torch.testing.assert_close(model.replay_buffer.parts["labels"][-6:], newest.reference)


def test_teacher_sees_raw_observations_and_the_student_normalised_ones() -> None:
    environments = VecNormalize(make_vec_env(Beside, 3, seed=0), norm_obs_keys=["observation", "state"])
    model = student(env=environments, beta=0.0)
    model.learn(24 * 3 * 2)
    environments.obs_rms["state"].mean[:] = 100.0  # so that signs differ
    buffer = rollout(model)
    assert (buffer.observations["state"][..., 0] < 0).all()
    assert 0 < columns(buffer)[0].mean() < 1


@pytest.mark.parametrize(
    "space", [spaces.Discrete(2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-1, 1, (2,))],
    ids=["choice", "choices", "flags", "real"],
)  # fmt: skip
def test_losses_are_those_of_torch(space: Any, tmp_path: Path) -> None:
    """Check all losses against torch's distributions, with a teacher that Stable-Baselines3 saved."""
    teacher, is_real = saved_teacher(tmp_path, space), isinstance(space, spaces.Box)
    for loss in ("kl", "likelihood", "auto", *(("mse",) if is_real else ())):
        model = student(tmp_path / "teacher.zip", space=space, loss=loss, beta=0.0)
        buffer = rollout(model)
        model.replay_buffer.add(buffer, model.policy)
        segments, labels = model.replay_buffer.rows(slice(None))
        found, error = imitation(model.policy, segments, labels[:, :-1], model.taught_by)
        ours: Any = model.policy._get_action_dist_from_latent(model.policy.scan_actor(segments)[0].flatten(0, 1))
        theirs: Any = teacher.policy.get_distribution(buffer.groups()[0].observations["state"].flatten(0, 1))
        mode = theirs.mode().reshape(len(labels), -1)
        mode = mode.clamp(-1, 1) if is_real else mode
        torch.testing.assert_close(labels[:, : mode.shape[1]], mode.float(), rtol=1e-5, atol=1e-6)
        assert model.taught_by == (loss if loss != "auto" else "mse" if is_real else "kl")
        own = ours.mode().reshape(mode.shape)
        if model.taught_by == "mse":
            expected = (own - mode).square().mean()
        elif model.taught_by == "likelihood":
            expected = -ours.log_prob(mode.flatten() if isinstance(space, spaces.Discrete) else mode).mean()
        else:
            both: Any = [(theirs.distribution, ours.distribution)]
            if isinstance(space, spaces.MultiDiscrete):
                both = zip(*both[0], strict=True)
            kls = [torch.distributions.kl_divergence(a, b).reshape(len(labels), -1).sum(1) for a, b in both]
            expected = torch.stack(kls).sum(0).mean()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        far = (own - mode).abs().mean() if is_real else (own != mode).any(1).float().mean()
        torch.testing.assert_close(error, far)
        model.train()
        assert all(p.isfinite().all() for p in model.policy.parameters())


def saved_teacher(folder: Path, space: Any, algorithm: Any = PPO) -> Any:
    """Save a teacher that sees three numbers; return it."""

    class Seen(gymnasium.Env[Any, Any]):
        observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), space

    teacher = algorithm("MlpPolicy", Seen(), seed=1, device="cpu", policy_kwargs={"net_arch": [8]})
    if algorithm is PPO:
        with torch.no_grad():
            teacher.policy.action_net.weight.normal_()
    teacher.save(folder / "teacher.zip")
    return teacher


def test_teacher_without_a_distribution_is_imitated_by_its_actions(tmp_path: Path) -> None:
    saved_teacher(tmp_path, spaces.Discrete(2), DQN)
    model = student(tmp_path / "teacher.zip").learn(72)
    assert model.taught_by == "likelihood"
    with pytest.raises(ValueError, match="loss=kl needs a teacher with a distribution"):
        student(tmp_path / "teacher.zip", loss="kl")


def test_hidden_state_of_the_teacher_is_carried_and_reset() -> None:
    teacher = Teacher(knows(), spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    teacher.begin(2)
    for starts, counted in (([True, True], [1, 1]), ([False, False], [2, 2]), ([True, False], [1, 3])):
        teacher.label(np.zeros((2, 3)), np.zeros(2), starts)
        assert teacher.state.flatten().tolist() == counted


def test_masks_hold_for_teacher_and_student() -> None:
    """Check that masked choices are labelled by none, with a teacher that knows masks, and refused with another."""

    class Masked(Beside):
        def action_masks(self) -> Any:
            return np.array([True, False])

    environments = make_vec_env(Masked, 2, seed=0)
    with pytest.raises(ValueError, match="takes actions that masks forbid"):
        student(env=environments, loss="likelihood", beta=0.0).learn(48)
    student(env=environments, loss="likelihood", beta=0.0).learn(48, use_masking=False)


def test_loss_of_rewards_is_that_of_stable_baselines() -> None:
    """Compare gradients with those of `PPO.train`, and leave out steps in which the teacher acted."""
    model = student(beta=0.0, ppo_coef=1.0, batch_size=72, ent_coef=0.1, clip_range_vf=0.2)
    buffer, policy = rollout(model), model.policy
    (batch,) = buffer.get(None)
    settings: dict[str, Any] = {"clip": 0.2, "clip_value": 0.2, "ent_coef": 0.1, "vf_coef": 0.5, "normalize": True}
    own = torch.ones(len(batch.advantages))
    parameters = [p for p in policy.parameters() if p.requires_grad]
    found = torch.autograd.grad(reinforcement(policy, batch, own, **settings), parameters)
    model.max_grad_norm, model.lr_schedule = float("inf"), lambda _: 0.0
    PPO.train(model)
    for expected, gradient in zip(parameters, found, strict=True):
        torch.testing.assert_close(gradient, expected.grad, rtol=1e-3, atol=1e-6)
    settings |= {"vf_coef": 0.0, "normalize": False}
    own[:20] = 0.0
    loss = reinforcement(policy, batch, own, **settings)
    batch.advantages[:20] = 1e6
    torch.testing.assert_close(reinforcement(policy, batch, own, **settings), loss)


def test_saved_model_predicts_and_learns_on_with_its_teacher(tmp_path: Path) -> None:
    model = student(policy_kwargs={"previous_action": True}, ppo_coef=0.1).learn(144)
    model.save(tmp_path / "model")
    loaded = Distillation.load(tmp_path / "model", make_vec_env(Beside, 3, seed=0))
    seen = {"observation": np.ones((3, 3), np.float32)}
    first, second = (x.predict(seen, episode_start=np.ones(3), deterministic=True)[0] for x in (model, loaded))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="no teacher"):
        loaded.learn(72)
    loaded = Distillation.load(tmp_path / "model", make_vec_env(Beside, 3, seed=0), teacher=knows())
    loaded.learn(72, reset_num_timesteps=False)
    assert loaded.num_timesteps == 216


def test_bad_settings_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    saved_teacher(tmp_path, spaces.Discrete(3))
    for message, options in (
        ("no such run, checkpoint or .zip", {"teacher": tmp_path / "lost.zip"}),
        ("no checkpoint at", {"teacher": tmp_path / "empty"}),
        ("Discrete", {"teacher": tmp_path / "teacher.zip"}),
        ("loss must be one of auto, kl", {"loss": "cross"}),
        ("loss=mse is for real actions", {"loss": "mse"}),
        ("beta must lie in", {"beta": 2.0}),
        ("must not be negative", {"ppo_coef": -1.0}),
        ("a divisor of n_steps", {"n_steps": 25}),
        ("leave it out", {"target_kl": 0.1}),
        ("no key", {"policy_kwargs": {"critic_keys": ["stat"]}}),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            student(**options)
        assert "\n" not in str(caught.value)
    world = Beside().observation_space
    assert teacher_space(world, []) is world
    with pytest.raises(ValueError, match='did you mean "state"'):
        teacher_space(world, ["stat"])
    with pytest.raises(ValueError, match="parts of a Dict"):
        teacher_space(spaces.Box(-1, 1), ["state"])
