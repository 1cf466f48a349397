"""Networks for images of any size, against Stable-Baselines3's own networks."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from forked import minrl
from gymnasium import spaces
from ppo_models import SMALL, every_policy, small
from ppo_runs import whole
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from torch.nn import functional as F
from worlds import own_folders  # noqa: F401

import minrl as package
from minrl.agents.ppo import RecurrentPPO
from minrl.agents.ppo_agent import PPOAgent, PPOConfig
from minrl.data import EnvironmentInfo
from minrl.data.task import Task
from minrl.evaluate import evaluate
from minrl.online.inputs.images import PartsExtractor, SmallCNN, image_network


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


SHAPES = [(7, 7, 3), (3, 7, 7), (1, 1, 3), (1, 1, 1), (2, 84, 1), (84, 2, 3), (35, 35, 3), (3, 35, 40), (36, 36, 3)]
# Names that torch's modules use already.
PARTS = {"type": spaces.Box(-1, 1, (2,), np.float32), "direction": spaces.Discrete(4)}


class Grid(gymnasium.Env[Any, Any]):
    """Environment of an image whose corner shows the right one of two actions; `parts` extend it to a Dict."""

    def __init__(self, shape: tuple[int, ...] = (7, 7, 3), parts: bool = False) -> None:
        self.picture = image(*shape)
        self.observation_space: Any = spaces.Dict(image=self.picture, **PARTS) if parts else self.picture
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.right)
        self.steps += 1
        return self._look(), reward, False, self.steps == 20, {}

    def _look(self) -> Any:
        picture = self.np_random.integers(0, 60, self.picture.shape).astype(np.uint8)
        self.right = int(self.np_random.integers(2))
        picture[0, 0] = 255 * self.right
        if not isinstance(self.observation_space, spaces.Dict):
            return picture
        return {"image": picture, **{name: np.zeros(part.shape, part.dtype) for name, part in PARTS.items()}}


@pytest.fixture(autouse=True)
def grid() -> Any:
    """Register `Grid-v0` with Gymnasium."""
    gymnasium.register("Grid-v0", entry_point=Grid)
    yield
    del gymnasium.registry["Grid-v0"]


@every_policy
@pytest.mark.parametrize("parts", [False, True], ids=["alone", "dict"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.filterwarnings("ignore:Treating image space as channels-last")
def test_every_size_can_be_trained(family: str, parts: bool, shape: tuple[int, ...]) -> None:
    model = small(family, Grid(shape, parts), "MultiInput" if parts else "Cnn", n_epochs=1)
    model.learn(16)
    assert model.policy.first_ratio_dev < 1e-5
    extractor: Any = model.policy.features_extractor
    network = extractor.extractors["image"] if parts else extractor
    assert type(network) is (NatureCNN if min(sorted(shape)[1:]) >= 36 else SmallCNN)


@pytest.mark.parametrize("shape", [(3, 36, 36), (1, 50, 41)])
def test_large_images_have_the_network_that_they_had(shape: tuple[int, ...]) -> None:
    space = image(*shape)
    torch.manual_seed(0)
    known = NatureCNN(space)
    torch.manual_seed(0)
    found = image_network(space)(space)
    assert type(found) is NatureCNN
    both: Any = spaces.Dict(front=space, place=spaces.Box(-1, 1, (2, 2)), back=space, kind=spaces.Discrete(3))
    torch.manual_seed(1)
    combined = CombinedExtractor(both)
    torch.manual_seed(1)
    parts = PartsExtractor(both)
    rows = {
        "front": torch.rand(2, *shape),
        "place": torch.rand(2, 2, 2),
        "back": torch.rand(2, *shape),
        "kind": F.one_hot(torch.tensor([0, 2]), 3).float(),
    }
    assert torch.equal(found(rows["front"]), known(rows["front"]))
    assert torch.equal(parts(rows), combined(rows))
    assert parts.features_dim == combined.features_dim
    assert parts.state_dict().keys() == combined.state_dict().keys()


def test_the_small_network_by_hand() -> None:
    torch.manual_seed(0)
    network = SmallCNN(image(3, 5, 9), features_dim=6)
    x = torch.rand(2, 3, 5, 9)
    w = {name: value.detach() for name, value in network.named_parameters()}
    hidden = F.relu(F.conv2d(x, w["cnn.0.weight"], w["cnn.0.bias"], padding=1))
    for layer in (2, 4):
        hidden = F.relu(F.conv2d(hidden, w[f"cnn.{layer}.weight"], w[f"cnn.{layer}.bias"], stride=2, padding=1))
    assert hidden.shape == (2, 64, 2, 3)
    expected = F.relu(hidden.flatten(1) @ w["linear.0.weight"].T + w["linear.0.bias"])
    torch.testing.assert_close(network(x), expected)


@every_policy
@pytest.mark.parametrize("kind", ["Cnn", "MultiInput"])
def test_the_network_can_be_named(family: str, kind: str) -> None:
    env = Grid((40, 40, 3), parts=kind == "MultiInput")
    model = small(family, env, kind, policy_kwargs={"cnn": "small"})
    assert any(type(module) is SmallCNN for module in model.policy.modules())
    assert not any(type(module) is NatureCNN for module in model.policy.modules())
    for name, message in (("nature", "36 x 36 pixels or more, got one of shape"), ("smal", 'did you mean "small"')):
        with pytest.raises(ValueError, match=message):
            small(family, Grid((7, 7, 3), parts=kind == "MultiInput"), kind, policy_kwargs={"cnn": name})


def test_normalised_images_need_no_bytes() -> None:
    env: Any = Grid()
    env.observation_space = spaces.Box(0, 1, (3, 6, 6), np.float32)
    model = RecurrentPPO(
        "CnnPolicy", env, n_steps=8, batch_size=8, device="cpu",
        policy_kwargs={"normalize_images": False, **SMALL[""]},
    )  # fmt: skip
    assert type(model.policy.features_extractor) is SmallCNN


def test_a_run_with_small_images_acts_as_it_was_trained(tmp_path: Path) -> None:
    whole(tmp_path / "run", env="Grid-v0", steps=64, evaluate_every=0, cnn="small")
    agent: Any = package.load(tmp_path / "run")
    assert agent.config.cnn == "small"
    assert type(agent.policy.features_extractor) is SmallCNN
    assert len(evaluate(agent, episodes=2)[0].returns) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--env", "CartPole-v1", "--cnn", "small"), "the observations of CartPole-v1 hold no image"),
        (("--env", "CartPole-v1", "--cnn", "big"), 'unknown value "big"'),
    ],
)
def test_unsupported_settings_give_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = minrl("train", "ppo", *words, "--out", tmp_path / "run", "--threads", 1)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_older_settings_keep_their_network() -> None:
    task = Task.in_environment(EnvironmentInfo("Grid-v0"), image(40, 40, 3), spaces.Discrete(2))
    assert type(PPOAgent(PPOConfig(width=8, depth=1), task).policy.features_extractor) is NatureCNN


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True], ids=["alone", "dict"])
def test_it_learns_from_seven_pixels(parts: bool) -> None:
    model = small("", Grid(parts=parts), "MultiInput" if parts else "Cnn", n_steps=256, batch_size=128, n_epochs=8,
                  learning_rate=1e-3, gamma=0.0)  # fmt: skip
    model.learn(256 * 12)
    # 10 of 20 by chance.
    assert evaluate_policy(model, Grid(parts=parts), 10, deterministic=True, warn=False)[0] > 18
