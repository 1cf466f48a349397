"""A trained PPO policy as an agent: on flat rows it equals Stable-Baselines3's `predict`.

Shapes: B environments, T steps.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from noise import NORMALIZED, TOLD, Noise
from worlds import ACTIONS, own_folders

import minrl
from minrl.agent import Agent, Moment
from minrl.agents.ppo_agent import PPOAgent, PPOOptions
from minrl.data import EnvironmentInfo
from minrl.data.task import Task
from minrl.evaluate import evaluate
from minrl.online.report import OnlineResult
from minrl.online.settings import OnlineConfig
from minrl.online.spaces import fit_spaces
from minrl.online.train import train
from minrl.play import Player
from minrl.runs import checkpoint

__all__ = ["own_folders"]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("Noise-v0", entry_point=Noise)
    yield
    del gymnasium.registry["Noise-v0"]


def trained(out: Path, options: dict[str, Any], settings: dict[str, Any] | None = None, **world: str) -> OnlineResult:
    small = {"n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 2, "steps": 96, "learning_rate": 1e-2}
    config = OnlineConfig(env="Noise-v0", env_kwargs=world, evaluate_every=0, threads=1, **small | (settings or {}))
    return train(PPOAgent, PPOOptions(**{"width": 16, "depth": 1} | options), config, out)


class Normalization:
    """Wrapper with `VecNormalize`'s formula, on the statistics of a checkpoint."""

    def __init__(self, run: Path) -> None:
        self.statistics = checkpoint.read(run).training["model"]["normalization"]

    def observation(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {key: self._number(value, f"observations/{key}") for key, value in observation.items()}
        return self._number(observation, "observations/")

    def reward(self, reward: float) -> float:
        if "returns" not in self.statistics:
            return reward
        return float(np.clip(reward / np.sqrt(self.statistics["returns"]["var"].item() + 1e-8), -10, 10))

    def _number(self, value: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        if name not in self.statistics:
            return value
        mean, var = (self.statistics[name][key].numpy() for key in ("mean", "var"))
        return np.clip((value - mean) / np.sqrt(var + 1e-8), -10, 10).astype(np.float32)


def by_hand(agent: PPOAgent, run: Path, seed: int, world: dict[str, str]) -> tuple[float, int]:
    """Play an episode by the policy's own `predict` in one plain environment; return its return and length."""
    environment = fit_spaces(gymnasium.make("Noise-v0", **world))
    normalization = Normalization(run)
    observation, _ = environment.reset(seed=seed)
    state, total, steps, over, told = None, 0.0, 0, False, 0.0
    extra: dict[str, Any] = {}
    while not over:
        if agent.policy.previous_reward:
            extra["reward"] = np.array([told])
        shown = normalization.observation(observation)
        action, state = agent.policy.predict(shown, state, np.array([steps == 0]), deterministic=True, **extra)
        observation, reward, *ends, _ = environment.step(action)
        over, total, steps = any(ends), total + float(reward), steps + 1
        told = normalization.reward(float(reward))
    return total, steps


@pytest.mark.parametrize(
    ("observations", "actions", "options"),
    [
        ("box", "discrete", {}),
        ("box", "discrete", {**NORMALIZED, **TOLD}),
        ("box", "one", {**NORMALIZED, **TOLD, "separate_critic": True}),
        ("box", "box", {"use_sde": True, "log_std_init": -1.0, "previous_action": True}),
        ("box", "multidiscrete", {"net_arch": {"pi": [8], "vf": [8, 8]}, **TOLD}),
        ("discrete", "multibinary", {"normalize_rewards": True, **TOLD}),
        ("multibinary", "discrete", {"cell": "lstm"}),
        ("tuple", "choices", {**NORMALIZED, **TOLD}),
        ("image", "one", {"previous_reward": True}),
        ("nested", "choices", {**NORMALIZED, "previous_action": True}),
    ],
)
def test_as_predict_does(observations: str, actions: str, options: dict[str, Any], tmp_path: Path) -> None:
    world = {"observations": observations, "actions": actions}
    agent = trained(tmp_path / "run", options, **world).agent
    (result,) = evaluate(agent, episodes=6, environments=4, seed=50)
    wanted = [by_hand(agent, tmp_path / "run", seed, world) for seed in range(50, 56)]
    assert list(result.lengths) == [steps for _, steps in wanted]
    assert result.returns == pytest.approx([total for total, _ in wanted], rel=1e-4, abs=1e-3)
    loaded = minrl.load(tmp_path / "run")
    assert isinstance(loaded, PPOAgent)
    assert not isinstance(loaded, Agent)
    (again,) = evaluate(loaded, EnvironmentInfo("Noise-v0", world), episodes=6, environments=4, seed=50)
    assert again.returns == result.returns


def test_the_state_is_zero_where_an_episode_starts(tmp_path: Path) -> None:
    agent = trained(tmp_path / "run", TOLD).agent.eval()
    observation, reward = torch.randn(2, 3), torch.tensor([3.0, -1.0])
    fresh, used = agent.initial_state(2), torch.randn(2, agent.state_size)
    starts = torch.tensor([True, False])
    with torch.inference_mode():
        _, ours = agent.act(Moment(observation, reward, starts), used)
        _, empty = agent.act(Moment(observation, torch.zeros(2), torch.ones(2, dtype=torch.bool)), fresh)
    assert torch.equal(ours[0], empty[0])
    assert not torch.equal(ours[1], empty[1])


def test_samples_differ_and_stay_in_the_space(tmp_path: Path) -> None:
    agent = trained(tmp_path / "run", {"use_sde": True, "log_std_init": 0.5}, actions="one").agent
    player = Player(agent, 64, deterministic=False)
    actions = player.act(np.zeros((64, 3), np.float32), np.zeros(64), np.ones(64, dtype=bool))
    assert len(np.unique(actions)) > 2
    assert (actions >= np.float32(-0.02)).all()
    assert (actions <= 0.5).all()


def test_the_task_of_an_environment() -> None:
    world = Noise("nested", "choices")
    task = Task.in_environment(EnvironmentInfo("Noise-v0"), world.observation_space, world.action_space)
    assert task.dataset == "env:Noise-v0"
    assert task.observation_size == 2 + 2 + 4 + 3 + 36 * 37
    assert task.action_low == (0.0,) * 10
    assert task.action_high == (1.0,) * 10
    assert task.reference_scores is None
    again = Task.from_dict(task.to_dict())
    assert again.observation_space == world.observation_space
    assert again.action_space == world.action_space
    box = Task.in_environment(EnvironmentInfo("Noise-v0"), world.observation_space, ACTIONS["box"])
    assert (box.action_low, box.action_high) == ((-2.0, 0.0), (1.0, 5.0))


@pytest.mark.parametrize(
    ("options", "world", "message"),
    [
        ({}, {"actions": "mixed"}, "an action of several parts must be discrete"),
        ({"use_sde": True}, {"actions": "discrete"}, r"\(gSDE\) can only be used with continuous actions"),
        ({"normalize_observations": True}, {"observations": "discrete"}, "nothing to normalise in images and choices"),
        ({"cell": "mingrru"}, {}, 'unknown cell "mingrru"; did you mean "mingru"'),
        ({"cell_options": {"expnd": 2}}, {}, 'did you mean "expand"'),
        ({"cell_options": {"expand": "big"}}, {}, "expand must be of type float, such as 1.0, got 'big'"),
        ({"pretrained": "nowhere"}, {}, "no checkpoint at"),
    ],
)
def test_unsupported_settings_are_refused(
    options: dict[str, Any], world: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        trained(tmp_path / "run", options, **world)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"net_arch": {"q": [3]}}, r"net_arch reads pi=\[64\] vf=\[64\], got q=\[3\]"),
        ({"net_arch": {"pi": 64}}, "got pi=64"),
        ({"pretrained_kl": 0.1}, "pretrained_kl needs pretrained"),
        ({"pretrained": "x", "normalize_observations": True}, "leave out normalize_observations"),
    ],
)
def test_settings_of_the_policy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOOptions(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_envs": 0}, "n_envs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite, got nan"),
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\], got 1.5"),
        ({"segment_length": 0}, "segment_length must be positive, got 0"),
        ({"batch_size": 1}, "normalize_advantage needs minibatches of two steps"),
        ({"video": True, "evaluate_every": 0}, "video shows evaluations"),
    ],
)
def test_settings_of_the_run(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnlineConfig(env="Noise-v0", **values)
