"""Small policies that Stable-Baselines3 and sb3-contrib train and save, of every algorithm and kind of space."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from torch import nn


def box(*shape: int, low: float = -1.0, high: float = 1.0) -> spaces.Box:
    return spaces.Box(low, high, shape, np.float32)


IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
PARTS = spaces.Dict(
    {
        "vector": box(2),
        "choice": spaces.Discrete(3),
        "choices": spaces.MultiDiscrete([2, 3]),
        "flags": spaces.MultiBinary(2),
        "image": IMAGE,
    }
)
# With a MultiDiscrete sb3-contrib gives torch.nn.LSTM a width of NumPy's type, which torch 2.13 refuses.
FEWER_PARTS = spaces.Dict({key: part for key, part in PARTS.items() if key != "choices"})
WIDE = spaces.Box(np.array([-2.0, 0.1], np.float32), np.array([3.0, 0.7], np.float32))


class World(gymnasium.Env[Any, Any]):
    """Environment of random observations; episodes end by chance."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.masks = spaces.flatdim(action_space) * (2 if isinstance(action_space, spaces.MultiBinary) else 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, bool(self.np_random.random() < 0.2), False, {}

    def action_masks(self) -> Any:
        return np.ones(self.masks, np.bool_)


@dataclass(frozen=True)
class Case:
    """Algorithm, policy, spaces and options of a file."""

    algorithm: str
    policy: str
    observations: Any
    actions: Any
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        kinds = type(self.observations).__name__, type(self.actions).__name__
        return "-".join((self.algorithm, self.policy, *kinds, *map(str, self.policy_kwargs)))

    def train(self, steps: int = 16) -> Any:
        """Return a model that has learned for some steps, its actor moved so that actions differ."""
        kind = getattr(stable_baselines3, self.algorithm, None) or getattr(sb3_contrib, self.algorithm)
        model = kind(
            self.policy, World(self.observations, self.actions), seed=0, device="cpu",
            policy_kwargs=dict(self.policy_kwargs), **(_OPTIONS[self.algorithm] | self.options),
        )  # fmt: skip
        # sb3-contrib's RecurrentPPO cannot train on flags: their type is none of torch's real numbers.
        if not (self.algorithm == "RecurrentPPO" and isinstance(self.actions, spaces.MultiBinary)):
            model.learn(steps)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weights in model.policy.named_parameters():
                if "log_std" not in name and "cnn" not in name:
                    spread = 0.2 if "lstm" in name else 0.5 / max(1.0, weights[0].numel() ** 0.5)
                    weights += spread * torch.randn(weights.shape, generator=generator)
            for network in ("q_net", "quantile_net"):  # no choice is the best everywhere
                if hasattr(model.policy, network):
                    values = getattr(model.policy, network)
                    seen, _ = model.policy.obs_to_tensor(model.get_env().observation_space.sample())
                    [*values.modules()][-1].bias -= values(seen).mean(0).reshape(-1)
        return model


_ROLLOUT = {"n_steps": 8}
_REPLAY = {"buffer_size": 50, "learning_starts": 8, "batch_size": 4}
_OPTIONS: dict[str, dict[str, Any]] = {
    "PPO": _ROLLOUT | {"batch_size": 8, "n_epochs": 1},
    "MaskablePPO": _ROLLOUT | {"batch_size": 8, "n_epochs": 1},
    "RecurrentPPO": _ROLLOUT | {"batch_size": 8, "n_epochs": 1},
    "A2C": _ROLLOUT,
    "TRPO": _ROLLOUT | {"batch_size": 8},
    **dict.fromkeys(("SAC", "TD3", "DDPG", "DQN", "TQC", "QRDQN"), _REPLAY),
    "ARS": {"n_delta": 1},
}
_SMALL: dict[str, Any] = {"net_arch": [16]}
_LSTM: dict[str, Any] = {"lstm_hidden_size": 8, "net_arch": {"pi": [8], "vf": [8]}}
_CNN: dict[str, Any] = {"features_extractor_kwargs": {"features_dim": 16}}
_PARTS: dict[str, Any] = {"features_extractor_kwargs": {"cnn_output_dim": 8}}

FEEDFORWARD = [
    Case("PPO", "MlpPolicy", box(3), spaces.Discrete(3)),
    Case("PPO", "MlpPolicy", box(2, 3), WIDE, {"activation_fn": nn.ELU, "net_arch": {"pi": [8, 5], "vf": []}}),
    Case("PPO", "MlpPolicy", box(3), WIDE, {"squash_output": True, "use_expln": True}, {"use_sde": True}),
    Case("PPO", "MlpPolicy", box(3), WIDE, {"full_std": False, "net_arch": []}, {"use_sde": True}),
    Case("PPO", "CnnPolicy", IMAGE, spaces.MultiDiscrete([2, 4]), _CNN | {"share_features_extractor": False}),
    Case("PPO", "MlpPolicy", IMAGE, spaces.Discrete(3), _SMALL),
    Case("PPO", "CnnPolicy", IMAGE, WIDE, _CNN | {"normalize_images": False}),
    Case("A2C", "MultiInputPolicy", PARTS, spaces.MultiBinary(3), _PARTS),
    Case("A2C", "MlpPolicy", spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([2, 2, 5])),
    Case("TRPO", "MlpPolicy", spaces.MultiBinary(5), spaces.Discrete(4), {"activation_fn": nn.LeakyReLU}),
    Case("MaskablePPO", "MlpPolicy", box(3), spaces.MultiBinary(3)),
    Case("MaskablePPO", "MlpPolicy", box(3), spaces.Discrete(5)),
    Case("SAC", "MlpPolicy", box(3), WIDE, _SMALL),
    Case("SAC", "MlpPolicy", box(3), WIDE, _SMALL | {"clip_mean": 0.3}, {"use_sde": True}),
    Case("SAC", "MlpPolicy", box(3), WIDE, _SMALL | {"clip_mean": 0.0, "activation_fn": nn.GELU}, {"use_sde": True}),
    Case("SAC", "MultiInputPolicy", PARTS, WIDE, _PARTS | _SMALL),
    Case("TD3", "MlpPolicy", box(3), WIDE, _SMALL),
    Case("TD3", "CnnPolicy", IMAGE, WIDE, _CNN | {"net_arch": []}),
    Case("DDPG", "MlpPolicy", box(3), WIDE, _SMALL | {"activation_fn": nn.Tanh}),
    Case("TQC", "MlpPolicy", box(3), WIDE, {"net_arch": {"pi": [7, 9], "qf": [4]}, "n_quantiles": 5}),
    Case("DQN", "MlpPolicy", spaces.Discrete(6), spaces.Discrete(4), _SMALL),
    Case("DQN", "CnnPolicy", IMAGE, spaces.Discrete(3), _CNN | _SMALL),
    Case("QRDQN", "MlpPolicy", box(3), spaces.Discrete(4), {"n_quantiles": 6, "net_arch": [8, 8]}),
    Case("QRDQN", "MultiInputPolicy", PARTS, spaces.Discrete(3), _PARTS | _SMALL | {"n_quantiles": 3}),
    Case("ARS", "LinearPolicy", box(3), WIDE),
    Case("ARS", "LinearPolicy", box(3), WIDE, {"with_bias": True, "squash_output": True}),
    Case("ARS", "MlpPolicy", box(3), WIDE, {"net_arch": [8]}),
    Case("ARS", "MlpPolicy", box(3), spaces.Discrete(3), {"net_arch": [8]}),
]
RECURRENT = [
    Case("RecurrentPPO", "MlpLstmPolicy", box(3), WIDE, _LSTM),
    Case("RecurrentPPO", "MlpLstmPolicy", box(3), spaces.Discrete(3), _LSTM | {"n_lstm_layers": 2}),
    Case(
        "RecurrentPPO", "MlpLstmPolicy", box(3), spaces.MultiDiscrete([2, 3]),
        _LSTM | {"shared_lstm": True, "enable_critic_lstm": False, "lstm_kwargs": {"bias": False}},
    ),
    Case("RecurrentPPO", "MlpLstmPolicy", box(3), spaces.MultiBinary(2), _LSTM | {"enable_critic_lstm": False}),
    Case("RecurrentPPO", "MlpLstmPolicy", box(3), WIDE, _LSTM | {"squash_output": True}, {"use_sde": True}),
    Case("RecurrentPPO", "CnnLstmPolicy", IMAGE, spaces.Discrete(3), _LSTM | _CNN),
    Case(
        "RecurrentPPO", "MultiInputLstmPolicy", FEWER_PARTS, spaces.MultiDiscrete([2, 3]),
        _LSTM | _PARTS | {"share_features_extractor": False, "activation_fn": nn.SiLU},
    ),
]  # fmt: skip
CASES = FEEDFORWARD + RECURRENT


def batches(space: Any, count: int, seed: int = 0) -> Callable[[], Any]:
    """Return a function that draws a batch of observations of `space`."""
    space.seed(seed)

    def draw() -> Any:
        samples = [space.sample() for _ in range(count)]
        if isinstance(space, spaces.Dict):
            return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
        return np.stack(samples)

    return draw
