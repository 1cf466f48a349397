"""Error messages: one line that says what to use instead."""

import inspect
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decision_agents import agent_of
from ppo_runs import whole
from worlds import cartpole, drift_episodes, drift_registered, own_folders

import minrl
from minrl.agents.__main__ import main
from minrl.agents.cli.families import families
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.backbone import Backbone
from minrl.cells import CELLS
from minrl.compare.grid.read import read_grid
from minrl.data.task import Task
from minrl.play import Player
from minrl.system.config import key_value

__all__ = ["cartpole", "drift_registered", "own_folders"]

OFFLINE = ["train", "decision", "--data", "minari:x", "--out", "r"]
PPO = ["train", "ppo", "--env", "CartPole-v1", "--out", "r"]
RESUMED = ["train", "--resume", "runs/x"]

ANSWERS: dict[str, tuple[list[str], str]] = {
    "resumed with a setting": ([*RESUMED, "--learning-rate", "1e-2"], "a resumed run keeps its settings"),
    "resumed with a short one": ([*RESUMED, "--lr=1e-2"], "a resumed run keeps its settings, so --lr cannot be given"),
    "resumed with a switch": ([*RESUMED, "--video"], "a resumed run keeps its settings"),
    "resumed with an agent": (["train", "decision", "--resume", "runs/x"], "a resumed run keeps its settings"),
    "resumed after a setting": (["train", "--width", "8", "--resume", "x"], "a resumed run keeps its settings"),
    "resumed with a typo": (
        ["train", "--resum", "runs/x"],
        'no flag --resum before an agent\'s name; did you mean "--resume"?',
    ),
    "a flag before the agent": (
        ["train", "--data=minari:a/b-v0", "decision"],
        "no flag --data before an agent's name; a new run's stand after its",
    ),
    "empty folder": ([*PPO[:-1], ""], "--out is empty; is a variable of the shell unset?"),
    "empty run": (["export", "", "--c", "c"], "RUN|ZIP is empty"),
    "no number": ([*OFFLINE, "--target-return", "nan"], "target_return must be finite, got nan"),
    "export --out": (["export", "runs/x", "--out", "a.onnx"], "no flag --out here: it writes one file, --onnx FILE"),
    "lr": ([*OFFLINE, "--lr", "1e-2"], 'unknown flag --lr; did you mean "--learning-rate"?'),
    "lr of ppo": ([*PPO, "--lr=1e-2"], 'unknown flag --lr; did you mean "--learning-rate"?'),
    "hidden size": ([*OFFLINE, "--hidden-size", "64"], 'did you mean "--width"?'),
    "timesteps": ([*PPO, "--total-timesteps", "64"], 'did you mean "--steps"?'),
    "environment of offline agents": ([*OFFLINE, "--env", "Hopper-v5"], "minrl train ppo --env ID"),
    "environment of clones": (["train", "clone", "--env-id", "Hopper-v5"], "minrl train ppo --env ID"),
    "data of ppo": ([*PPO, "--data", "minari:x"], "minrl train decision --data NAME"),
    "data set of ppo": ([*PPO, "--dataset", "minari:x"], "minrl train decision --data NAME"),
    "environment before the agent": (["train", "--env", "A-v0", *OFFLINE[1:]], "--env stands after the agent's name"),
    "steps before the agent": (["train", "--steps", "3", *OFFLINE[1:]], "--steps stands after the agent's name"),
}


@pytest.mark.parametrize("mistake", ANSWERS)
def test_mistakes_name_what_to_use_instead(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = ANSWERS[mistake]
    try:
        code: Any = main(words)
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "right"), [("dataa", "data"), ("evn", "env"), ("lable", "label"), ("trian", "train"), ("hihg", "high")]
)
def test_a_wrong_key_of_a_task(wrong: str, right: str, tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    known = "" if wrong in ("dataa", "evn") else 'data = "minari:x"\n'
    grid.write_text(f'cells = ["mingru"]\n[tasks.a]\n{wrong} = "y"\n{known}')
    with pytest.raises(ValueError, match=f'\\[tasks.a\\] .* has no key "{wrong}"; did you mean "{right}"') as error:
        read_grid(grid, families())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.zeros(3), [0.0], [True]), "observations of shape (3,) should have shape (1, 3)"),
        ((np.zeros((2, 3)), [0.0], [True]), "observations of shape (2, 3) should have shape (1, 3)"),
        ((np.zeros((1, 3)), [0.0, 1.0], [True]), "rewards must have shape (1,)"),
        ((np.zeros((1, 3)), [0.0], True), "episode_starts must have shape (1,)"),
    ],
)
def test_acting_without_a_batch_axis(arguments: tuple[Any, Any, Any], said: str) -> None:
    agent = DecisionAgent(DecisionConfig(width=8, depth=1), Task.of(drift_episodes()))
    player = Player(agent, 1)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        player.act(*arguments)
    assert "\n" not in str(error.value)
    assert player.act(np.zeros((1, 3)), [0.0], [True]).shape == (1, 2)


@pytest.mark.parametrize(
    ("count", "target", "said"),
    [
        (0, None, "batch_size is the number of environments, 1 or more, got 0"),
        (1, math.nan, "target_return must be finite, got nan"),
        (2, [1.0, math.inf], "target_return must be finite"),
        (1, [1.0, 2.0], r"target_return must have shape \(1,\), one for each environment, got \(2,\)"),
        (2, [[1.0], [2.0]], r"target_return must have shape \(2,\)"),
    ],
)
def test_a_player_of_nothing_or_without_a_number_to_aim_for(count: int, target: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Player(agent_of(), count, target_return=target)
    assert Player(agent_of(), 2, target_return=[1.0, 2.0]).state[:, 0].tolist() == [1.0, 2.0]


WRONG = {bool: "no", int: "a", float: "two", str: 5}


@pytest.mark.parametrize("cell", CELLS)
def test_an_option_of_another_type_is_named(cell: str) -> None:
    """Give every option of every cell a value of a wrong type: `signed = "no"` would otherwise count as true."""
    for name, parameter in inspect.signature(CELLS[cell]).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or name == "dropout":  # the backbone's own
            continue
        wrong = 3 if isinstance(parameter.default, tuple) else WRONG.get(type(parameter.default), "a")
        with pytest.raises(ValueError, match=name) as error:
            Backbone(16, 1, cell, **{name: wrong})
        assert repr(wrong) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("False", False), ("True", True), ("false", False), ("[2,8]", [2, 8]), ("1e-3", 0.001), ("Hopper", "Hopper")],
)
def test_values_of_flags(text: str, value: Any) -> None:
    """Read True and False as Python spells them too: the texts would count as true."""
    assert key_value(f"signed={text}") == ("signed", value)
    assert type(key_value(f"signed={text}")[1]) is type(value)


def test_a_nested_observation_without_a_batch_axis(tmp_path: Path) -> None:
    """Name the part of a Dict whose shape is wrong."""
    whole(tmp_path / "run", env="minrl/TMaze-v0", steps=32)
    agent: Any = minrl.load(tmp_path / "run")
    player = Player(agent, 2)
    single = agent.task.observation_space.sample()
    with pytest.raises(ValueError, match="not a batch for 2 environments"):
        player.act(single, np.zeros(2), np.ones(2, bool))


def test_commands_quote_folders(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Name a folder with a blank and a quote as one word of the suggested command."""
    out = tmp_path / "it's my run"
    whole(out, steps=32)
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("watch the curves: ")]
    assert str(out) in shlex.split(line.removeprefix("watch the curves: "))
    assert main(["train", "ppo", "--env", "CartPole-v1", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert shlex.quote(str(out)) in error
    command = error[error.index("--resume") : error.index(", or choose")]
    assert shlex.split(command) == ["--resume", str(out)]
