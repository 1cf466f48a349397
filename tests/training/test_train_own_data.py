"""A user's flat HDF5 file with an environment to evaluate in: training, resuming, comparing, error messages."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from worlds import TINY, own_folders  # noqa: F401

from minrl.agents.__main__ import main
from minrl.data.environment import EnvironmentInfo
from minrl.runs import checkpoint

TASKS = """
import gymnasium, numpy as np
from gymnasium import spaces

class Aim(gymnasium.Env):
    '''The reward is `worth` where the action is the observation; 5 steps.'''
    observation_space = spaces.Discrete(8)
    action_space = spaces.Discrete(4)

    def __init__(self, worth=1.0):
        self.worth = worth

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.aim = 0, int(self.np_random.integers(3))
        return self.aim, {}

    def step(self, action):
        earned = self.worth * float(action == self.aim)
        self.steps, self.aim = self.steps + 1, int(self.np_random.integers(3))
        return self.aim, earned, self.steps == 5, False, {}

gymnasium.register("Aim-v0", entry_point="aimtasks:Aim", disable_env_checker=True)
"""
FEW = ("--steps", 60, "--evaluate-episodes", 4, "--evaluate-every", 60, "--learning-rate", 0.01)


@dataclass
class Ended:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str  # with the log


@dataclass
class Place:
    """Folder with a module of tasks, and recordings of right actions that lack the last choices."""

    folder: Path
    captured: pytest.CaptureFixture[str]
    logged: pytest.LogCaptureFixture

    def minrl(self, *words: Any) -> Ended:
        self.captured.readouterr()
        self.logged.clear()
        code = main([str(word) for word in words])
        out, err = self.captured.readouterr()
        return Ended(code, out, err + "".join(f"{text}\n" for text in self.logged.messages))

    def train(self, *flags: Any) -> Ended:
        return self.minrl("train", "clone", "--data", "hdf5:own data.hdf5", *TINY, *FEW, *flags)

    def evaluation(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / run / "summary.json").read_text())["evaluation"]
        return found


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Place]:
    (tmp_path / "aimtasks.py").write_text(TASKS)
    random = np.random.default_rng(0)
    aims = random.integers(3, size=200)
    ends = np.arange(200) % 5 == 4
    with h5py.File(tmp_path / "own data.hdf5", "w") as file:
        file["observations"], file["actions"], file["rewards"] = aims, aims, np.ones(200, np.float32)
        file["terminals"], file["timeouts"] = ends, np.zeros(200, np.bool_)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Place(tmp_path, capsys, caplog)
    sys.modules.pop("aimtasks", None)
    gymnasium.registry.pop("Aim-v0", None)


def forget() -> None:
    """Forget the module and its id, as in a new process."""
    sys.modules.pop("aimtasks", None)
    gymnasium.registry.pop("Aim-v0", None)


def test_a_run_is_evaluated_in_the_environment_that_is_named(place: Place) -> None:
    done = place.train("--eval-env", "aimtasks:Aim-v0", "--env-kwargs", "worth=3.0", "--out", "run")
    assert done.code == 0, done.err
    found = place.evaluation("run")
    assert found["environment_kwargs"] == {"worth": 3.0}
    assert found["mean_return"] == 15.0  # of 5 right actions, each worth 3
    assert "guessed" not in done.err
    assert checkpoint.load(place.folder / "run").task.environment == EnvironmentInfo("aimtasks:Aim-v0", {"worth": 3.0})
    forget()
    again = place.minrl("evaluate", "run", "--env", "aimtasks:Aim-v0", "--episodes", 2, "--json")
    assert json.loads(again.out)["mean_return"] == 15.0, again.err
    forget()
    for command in (("evaluate", "run"), ("train", "--resume", "run")):
        refused = place.minrl(*command)
        assert refused.code == 2
        assert "name it with --env ID" in refused.err
        assert "aimtasks" not in sys.modules
    other = place.minrl("train", "--resume", "run", "--env", "CartPole-v1")
    assert "run is evaluated in aimtasks:Aim-v0, not in CartPole-v1" in other.err
    done = place.minrl("train", "--resume", "run", "--env", "aimtasks:Aim-v0")
    assert done.code == 0, done.err
    assert place.evaluation("run")["mean_return"] == 15.0


def test_without_an_environment_the_run_says_how_to_evaluate(place: Place) -> None:
    done = place.train("--steps", 2, "--out", "my run")
    assert done.code == 0, done.err
    assert "names no environment, so the run is not evaluated" in done.err
    assert "--eval-env" in done.err
    (line,) = [text for text in done.out.splitlines() if text.startswith("evaluation")]
    assert "evaluate 'my run' --env ID" in line
    assert sum("guessed" in text for text in done.err.splitlines()) == 1
    refused = place.train("--env-kwargs", "worth=3.0", "--out", "other")
    assert refused.code == 2
    assert "names no environment; name it: --eval-env ID" in refused.err


def test_spaces_may_be_stated_without_an_environment(place: Place) -> None:
    said = ("--action-space", "Discrete(4)", "--observation-space", "Discrete(8)")
    done = place.train(*said, "--steps", 2, "--out", "run")
    assert done.code == 0, done.err
    assert "guessed" not in done.err
    done = place.minrl("evaluate", "run", "--env", "aimtasks:Aim-v0", "--episodes", 1, "--json")
    assert done.code == 0, done.err


def test_an_imported_file_needs_no_further_statement(place: Place) -> None:
    done = place.minrl("data", "import", "own data.hdf5", "--env", "aimtasks:Aim-v0", "--env-kwargs", "worth=2.0")
    assert done.code == 0, done.err
    assert "40 episodes, 200 steps, environment Aim-v0" in done.out
    told = place.minrl("data", "info", "minari:imported/own-data-v0", "--json")
    assert json.loads(told.out)["action_space"] == "Discrete(4)", told.err
    done = place.minrl("train", "clone", "--data", "minari:imported/own-data-v0", *TINY, *FEW, "--out", "run")
    assert done.code == 0, done.err
    assert place.evaluation("run")["mean_return"] == 10.0


def test_a_comparison_learns_from_a_file_and_plays_in_an_environment(place: Place) -> None:
    (place.folder / "grid.toml").write_text(
        'cells = ["mingru"]\nseeds = 1\n[tasks.aim]\ndata = "hdf5:own data.hdf5"\nenv = "aimtasks:Aim-v0"\n'
        'env_kwargs = {worth = 3.0}\nlow = 0\nhigh = 15\nagent = "clone"\n[offline.clone]\nwidth = 16\ndepth = 1\n'
        "[offline.train]\nsteps = 60\nevaluate_every = 60\nevaluate_episodes = 4\nlearning_rate = 0.01\nlength = 32\n"
    )
    done = place.minrl("compare", "grid.toml", "--out", "compared", "--trust")
    assert done.code == 0, done.err
    assert place.evaluation("compared/runs/aim/mingru/seed_0")["mean_return"] == 15.0
    (place.folder / "bare.toml").write_text('cells = ["mingru"]\n[tasks.aim]\ndata = "hdf5:own data.hdf5"\n')
    bare = place.minrl("compare", "bare.toml", "--out", "bare")
    assert 'name one in its table [tasks.NAME], env = "ID"' in bare.err
    (place.folder / "twice.toml").write_text(
        'cells = ["mingru"]\n[tasks.aim]\ndata = "hdf5:own data.hdf5"\nenv = "aimtasks:Aim-v0"\n'
        '[tasks.aim.train]\neval_env = "CartPole-v1"\n'
    )
    assert "sets eval_env twice" in place.minrl("compare", "twice.toml", "--out", "twice").err
