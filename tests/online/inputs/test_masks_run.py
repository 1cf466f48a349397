"""Action masks from the command line: training, exact resume, evaluation, the player and ONNX."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from ppo_runs import assert_equal, full_from, numbers, weights, whole, words

import minrl
from minrl.agents.__main__ import main
from minrl.data.masks.action_masks import mask_size
from minrl.evaluate import evaluate
from minrl.export.onnx import export_onnx
from minrl.play import Player
from tests.helpers.masked_world import Masked, drawn_masks

CASES = {
    "Discrete": spaces.Discrete(3, start=2),
    "MultiBinary": spaces.MultiBinary(2),
    "Parts": spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(2))),
}
for _name, _space in CASES.items():
    gymnasium.register(f"Masked{_name}-v0", lambda space=_space: Masked(space), max_episode_steps=6)
TINY: dict[str, Any] = {"steps": 96, "checkpoint_every": 32, "evaluate_every": 96, "evaluate_episodes": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("masks")


def trained(folder: Path, name: str) -> Path:
    if not (folder / name).exists():
        whole(folder / name, env=f"Masked{name}-v0", **TINY)
    return folder / name


@pytest.mark.parametrize("name", ["Discrete", "Parts", pytest.param("MultiBinary", marks=pytest.mark.slow)])
def test_run_takes_allowed_actions_alone_and_is_exported(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The environment fails on a masked action, in rollouts and in evaluations.
    out = trained(folder, name)
    agent: Any = minrl.load(out)
    assert agent.task.masked
    assert len(evaluate(agent, episodes=3)[0].returns) == 3
    assert main(["evaluate", str(out), "--episodes", "2", "--async", "--environments", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 2
    if name != "Parts":
        exported = export_onnx(agent, folder / f"{name}.onnx", steps=60)
        assert exported.inputs["action_masks"] == ("batch", mask_size(CASES[name]))
        assert exported.agreement.action == 0


def test_masks_are_said_and_can_be_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole(folder / "said", env="MaskedDiscrete-v0", **TINY)
    assert "actions are masked by action_masks()" in capsys.readouterr().out
    gymnasium.register("Tolerant-v0", lambda: Tolerant(spaces.Discrete(3)), max_episode_steps=6)
    whole(folder / "off", env="Tolerant-v0", use_masking=False, **TINY)
    assert "action_masks()" not in capsys.readouterr().out
    assert not minrl.load(folder / "off").task.masked


class Tolerant(Masked):
    def step(self, action: Any) -> Any:
        self.masks[:] = True
        return super().step(action)


def test_cut_off_run_equals_the_whole_one(folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"env": "MaskedMultiBinary-v0", "exact_resume": True, **TINY}
    whole(tmp_path / "whole", **settings)
    with full_from(64):
        assert main(words(tmp_path / "cut", **settings)) == 2
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")


def test_player_masks_and_refuses_bad_masks(folder: Path) -> None:
    agent: Any = minrl.load(trained(folder, "Discrete"))
    player, random = Player(agent, 4), np.random.default_rng(0)
    for step in range(5):
        masks = drawn_masks(agent.task.action_space, random, 4)
        actions = player.act(random.normal(size=(4, 3)), np.zeros(4), np.full(4, step == 0), masks)
        assert masks[np.arange(4), actions - 2].all()
    seen = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="row 2 allows no choice"):
        player.act(seen, np.zeros(4), np.zeros(4), np.arange(4)[:, None] != np.full((1, 3), 2))
    with pytest.raises(ValueError, match="has 3 flags"):
        player.act(seen, np.zeros(4), np.zeros(4), np.ones((4, 2)))
