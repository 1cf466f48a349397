"""Recurrent PPO as a Stable-Baselines3 algorithm: what works on sb3-contrib's RecurrentPPO works on ours.

Every test runs for sb3-contrib's policies and for those of this project.
"""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from ppo_models import acts_alike, every_policy, small
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize
from torch import Tensor, nn

from minrl.agents.ppo import MlpLstmPolicy, RecurrentPPO
from minrl.cells import CELLS


@every_policy
def test_the_documented_use(family: str, tmp_path: Path) -> None:
    """Learn, evaluate, save, load, and act with the states and episode starts handed back."""
    model = RecurrentPPO(f"Mlp{family}Policy", "CartPole-v1", verbose=1, seed=0)
    model.learn(256)
    environment = model.get_env()
    assert environment is not None
    mean, spread = evaluate_policy(model, environment, n_eval_episodes=5, warn=False)
    assert mean >= 8
    assert spread >= 0
    model.save(tmp_path / "ppo_recurrent")
    model = RecurrentPPO.load(tmp_path / "ppo_recurrent")
    observation, states, starts = environment.reset(), None, np.ones(1, dtype=bool)
    lengths: list[float] = []
    while len(lengths) < 2:
        action, states = model.predict(observation, state=states, episode_start=starts, deterministic=True)
        observation, _, starts, infos = environment.step(action)
        lengths += [info["episode"]["r"] for info in infos if "episode" in info]
    assert min(lengths) >= 8


NETWORKS: dict[str, list[dict[str, Any]]] = {
    "Lstm": [
        {"lstm_hidden_size": 256},
        {"share_features_extractor": False},
        {"shared_lstm": True, "enable_critic_lstm": False},
        {"n_lstm_layers": 2, "lstm_kwargs": {"dropout": 0.5}},
        {"enable_critic_lstm": False, "n_lstm_layers": 2, "lstm_kwargs": {"dropout": 0.5}},
        {"enable_critic_lstm": False, "share_features_extractor": False},
    ],
    "": [{"separate_critic": True, "share_features_extractor": False}, {"dropout": 0.5}],
}
WORLDS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "image": (
        "Cnn",
        partial(FakeImageEnv, screen_height=40, screen_width=40, n_channels=3),
        {"features_extractor_kwargs": {"features_dim": 8}},
    ),
    "flat": ("Mlp", partial(gymnasium.make, "CartPole-v1"), {"net_arch": {"pi": [8], "vf": [8]}}),
    "continuous": ("Mlp", partial(gymnasium.make, "Pendulum-v1"), {"activation_fn": nn.ReLU, "net_arch": [8]}),
    "binary": ("Mlp", partial(IdentityEnvMultiBinary, 2), {"ortho_init": False}),
    "choices": ("Mlp", partial(IdentityEnvMultiDiscrete, 2), {}),
    "mixed": (
        "MultiInput",
        partial(SimpleMultiObsEnv, num_col=2, num_row=2),
        {"features_extractor_kwargs": {"cnn_output_dim": 8}},
    ),
}


# Every network in one environment, and every environment with some network of each family.
PLACED = [
    *((family, network, "flat") for family, many in NETWORKS.items() for network in many),
    *((family, many[i % len(many)], world) for family, many in NETWORKS.items() for i, world in enumerate(WORLDS)
      if world != "flat"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "network", "world"), PLACED)
def test_networks_learn_from_every_kind_of_observation(family: str, network: dict[str, Any], world: str) -> None:
    kind, make, options = WORLDS[world]
    env = DummyVecEnv([lambda: TimeLimit(make(), 10)] * 2)
    model = small(family, env, kind, policy_kwargs={**options, **network}).learn(64)
    before = {name: x.clone() for name, x in model.policy.named_parameters()}
    model.learn(32)
    changed = [name for name, x in model.policy.named_parameters() if not torch.equal(x, before[name])]
    assert changed == list(before)
    evaluate_policy(model, model.get_env(), n_eval_episodes=2, warn=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns(cell: str) -> None:
    model = small("", "Pendulum-v1", policy_kwargs={"cell": cell})
    model.learn(32)
    assert all(torch.isfinite(x).all() for x in model.policy.parameters())


@every_policy
def test_normalised_observations_are_saved_and_loaded(family: str, tmp_path: Path) -> None:
    def world() -> Any:
        return make_vec_env("Pendulum-v1", 2, seed=0)

    env = VecNormalize(world())
    model = small(family, env).learn(64)
    assert env.obs_rms.count > 60
    model.save(tmp_path / "model")
    env.save(tmp_path / "statistics")
    loaded_env = VecNormalize.load(tmp_path / "statistics", world())
    loaded = RecurrentPPO.load(tmp_path / "model", env=loaded_env)
    np.testing.assert_array_equal(loaded_env.obs_rms.mean, env.obs_rms.mean)
    raw = np.ones((2, 3), np.float32)
    assert acts_alike(model, loaded, loaded_env.normalize_obs(raw))
    loaded_env.training, loaded_env.norm_reward = False, False
    evaluate_policy(loaded, loaded_env, n_eval_episodes=2, warn=False)
    mixed = VecNormalize(DummyVecEnv([SimpleMultiObsEnv]), norm_obs_keys=["vec"])
    small(family, mixed, "MultiInput").learn(32)


@every_policy
def test_wrapped_vector_environments(family: str) -> None:
    stacked = VecFrameStack(make_vec_env("CartPole-v1", 2), 3)
    assert small(family, stacked).learn(32).policy.observation_space.shape == (12,)
    monitored = small(family, VecMonitor(DummyVecEnv([partial(gymnasium.make, "CartPole-v1")] * 2))).learn(128)
    assert monitored.ep_info_buffer
    assert monitored.ep_info_buffer[0]["l"] >= 8
    processes = make_vec_env("CartPole-v1", 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"})
    small(family, processes).learn(32)
    processes.close()


@every_policy
def test_parameters_are_taken_and_set(family: str) -> None:
    model, other = small(family).learn(16), small(family, seed=1)
    other.set_parameters(model.get_parameters())
    assert acts_alike(model, other, np.ones((2, 4), np.float32))
    wanted, found = model.policy.optimizer.state_dict()["state"], other.policy.optimizer.state_dict()["state"]
    torch.testing.assert_close(found, wanted)
    wrong = deepcopy(model.get_parameters())
    wrong["no such thing"] = {}
    with pytest.raises(ValueError, match="no such thing"):
        model.set_parameters(wrong)
    with pytest.raises(ValueError, match="optimizer"):
        model.set_parameters({"policy": wrong["policy"]})


@every_policy
def test_loading_takes_changes_and_another_environment(family: str, tmp_path: Path) -> None:
    model = small(family, stats_window_size=7).learn(32)
    model.save(tmp_path / "model", exclude=["verbose"])
    loaded = RecurrentPPO.load(tmp_path / "model", custom_objects={"learning_rate": 0.5, "n_epochs": 1})
    assert (loaded.learning_rate, loaded.n_epochs, loaded.ep_info_buffer.maxlen) == (0.5, 1, 7)
    loaded.set_env(make_vec_env("CartPole-v1", 1))
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 48
    assert loaded.logger.name_to_value["train/learning_rate"] == 0.5
    with pytest.raises(ValueError, match="spaces do not match"):
        loaded.set_env(make_vec_env("Pendulum-v1", 1))
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    # A policy by itself acts in torch's operations, a model by the compiled call.
    assert acts_alike(model, policy, np.ones((2, 4), np.float32), rounding=1e-6)


@every_policy
def test_noise_that_depends_on_the_state_stays_in_bounds(family: str) -> None:
    class Bounded(gymnasium.wrappers.TransformAction[Any, Any, Any]):
        """Pendulum with torques in [-2, 6] that refuses others."""

        def __init__(self) -> None:
            space = spaces.Box(-2, 6, (1,), np.float32)
            super().__init__(gymnasium.make("Pendulum-v1"), lambda action: action / 4, space)

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action), action
            torques.append(float(action[0]))
            return super().step(action)

    torques: list[float] = []
    wide = {"squash_output": True, "log_std_init": 1.0}
    model = small(family, DummyVecEnv([Bounded]), use_sde=True, sde_sample_freq=4, policy_kwargs=wide).learn(64)
    assert max(torques) > 1
    torques.clear()
    judged = DummyVecEnv([Bounded])
    judged.seed(0)
    evaluate_policy(model, judged, n_eval_episodes=1, deterministic=False, warn=False)
    assert max(torques) > 1  # beyond the range of the network's tanh
    small(family, "Pendulum-v1", use_sde=True, sde_sample_freq=4, clip_range_vf=0.1).learn(48)


class Normed(BaseFeaturesExtractor):
    """Extractor with batch normalisation, which differs in training, and dropout."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 2)
        self.layers = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))

    def forward(self, observations: Tensor) -> Tensor:
        result: Tensor = self.layers(observations)
        return result


@every_policy
def test_own_extractors_and_optimisers(family: str) -> None:
    options = {"features_extractor_class": Normed, "optimizer_class": torch.optim.RMSprop}
    model = small(family, policy_kwargs={**options, "optimizer_kwargs": {"alpha": 0.9}})
    means = model.policy.features_extractor.layers[1].running_mean
    before = means.clone()
    model.learn(32)
    assert not torch.isclose(means, before).any()
    assert isinstance(model.policy.optimizer, torch.optim.RMSprop)
    assert model.policy.optimizer.defaults["alpha"] == 0.9
    before = means.clone()
    assert acts_alike(model, model, np.ones((2, 4), np.float32))
    assert torch.equal(means, before)


def test_a_policy_class_is_taken_and_its_arguments_checked() -> None:
    assert isinstance(RecurrentPPO(MlpLstmPolicy, "CartPole-v1").policy, MlpLstmPolicy)
    with pytest.raises(ValueError, match="NoSuchPolicy"):
        RecurrentPPO("NoSuchPolicy", "CartPole-v1")
