"""Files of sb3-contrib's RecurrentPPO open here as they are."""

import io
import json
from pathlib import Path
from typing import Any

import fresh
import gymnasium
import numpy as np
import pytest
import sb3_contrib
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import PPO

from minrl.agents.ppo import RecurrentPPO
from minrl.online.policy_classes import POLICIES, contrib_objects

SPACES: dict[str, gymnasium.Space[Any]] = {
    "MlpLstmPolicy": spaces.Box(-1, 1, (3,), np.float32),
    "CnnLstmPolicy": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "MultiInputLstmPolicy": spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)}),
}


class World(gymnasium.Env[Any, Any]):
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, name: str) -> None:
        self.observation_space = SPACES[name]
        self.observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, bool(self.np_random.random() < 0.2), False, {}


class OwnPolicy(RecurrentActorCriticPolicy):
    """Policy class that other programs lack."""


def theirs(name: str = "MlpLstmPolicy", policy: Any = None) -> Any:
    return sb3_contrib.RecurrentPPO(
        policy or name, World(name), n_steps=8, batch_size=8, n_epochs=1, device="cpu", seed=0,
        policy_kwargs={"lstm_hidden_size": 8, "n_lstm_layers": 2},
    )  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_every_policy(name: str, tmp_path: Path) -> None:
    """Compare the actions over an episode, deterministic ones to the bit of one matmul."""
    model = theirs(name).learn(16)
    model.save(tmp_path / "model")
    ours = RecurrentPPO.load(tmp_path / "model", device="cpu")
    assert type(ours.policy) is POLICIES[name]
    states: list[Any] = [None, None]
    for step in range(5):
        observation = SPACES[name].sample()
        start = np.array([step == 3])
        actions = []
        for i, each in enumerate((ours, model)):
            action, states[i] = each.predict(observation, states[i], start, deterministic=True)
            actions.append(action)
        np.testing.assert_allclose(*actions, atol=1e-6)
    again = RecurrentPPO.load(tmp_path / "model.zip", World(name), device="cpu").learn(16)
    again.save(tmp_path / "ours")
    assert contrib_objects(tmp_path / "ours") == {}
    assert type(RecurrentPPO.load(tmp_path / "ours", device="cpu").policy) is POLICIES[name]


def test_an_open_file() -> None:
    file = io.BytesIO()
    theirs().save(file)
    file.seek(0)
    assert type(RecurrentPPO.load(file, device="cpu").policy) is POLICIES["MlpLstmPolicy"]


def test_files_load_without_sb3_contrib(tmp_path: Path) -> None:
    model = theirs()
    model.save(tmp_path / "model.zip")
    code = (
        "import sys; sys.modules['sb3_contrib'] = None\n"
        "from minrl.agents.ppo import RecurrentPPO\n"
        f"model = RecurrentPPO.load({str(tmp_path / 'model.zip')!r}, device='cpu')\n"
        "print(model.predict([0.1, 0.2, 0.3], deterministic=True)[0].tolist())"
    )
    done = fresh.run(code)
    assert done.returncode == 0, done.stderr
    expected = model.predict(np.array([0.1, 0.2, 0.3], np.float32), deterministic=True)[0]
    np.testing.assert_allclose(np.array(json.loads(done.stdout)), expected, atol=1e-6)


def test_a_user_s_policy_class_is_named(tmp_path: Path) -> None:
    theirs(policy=OwnPolicy).save(tmp_path / "own")
    with pytest.raises(ValueError, match=r"got OwnPolicy; load a model .* custom_objects=") as caught:
        RecurrentPPO.load(tmp_path / "own", device="cpu")
    assert "\n" not in str(caught.value)
    objects = {"policy_class": POLICIES["MlpLstmPolicy"]}
    assert RecurrentPPO.load(tmp_path / "own", device="cpu", custom_objects=objects).policy is not None


def test_other_files(tmp_path: Path) -> None:
    PPO("MlpPolicy", World("MlpLstmPolicy"), n_steps=8, batch_size=8, device="cpu").save(tmp_path / "plain")
    assert contrib_objects(tmp_path / "plain") == {}
    (tmp_path / "text.zip").write_text("no zip")
    assert contrib_objects(tmp_path / "text") == {}
