"""Step limits, keyword arguments and environments of an evaluation."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from decision_agents import agent_of
from forked import minrl
from gymnasium import spaces
from ppo_runs import words
from worlds import drift_registered, own_folders

from minrl.agents.__main__ import main
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.collect.record import collect
from minrl.data import EnvironmentInfo, load
from minrl.data.environment import from_spec, make_environment
from minrl.data.task import Task
from minrl.data.wrappers import DEFAULT_MAX_STEPS
from minrl.evaluate import evaluate
from minrl.runs.summary import evaluation_table
from minrl.system.evaluation_progress import EvaluationProgress

__all__ = ["drift_registered", "own_folders"]

ENDLESS = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Endless(gymnasium.Env):
    """Pays `pay` at every step; ends after `ends` steps, or never."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    opened = []

    def __init__(self, pay=1.0, ends=0):
        self.pay, self.ends = pay, ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.opened.append(options)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), self.pay, self.steps == self.ends, False, {}


gymnasium.register("Endless-v0", entry_point="endless_world:Endless")
gymnasium.register("Limited-v0", entry_point="endless_world:Endless", max_episode_steps=40)
'''


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module `endless_world` and register two ids; yield the class of both."""
    (tmp_path / "endless_world.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import endless_world  # type: ignore[import-not-found]

    endless_world.Endless.opened.clear()
    for name, limit in (("Endless-v0", None), ("Limited-v0", 40)):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point="endless_world:Endless", max_episode_steps=limit)
    yield endless_world.Endless
    for name in ("Endless-v0", "Limited-v0"):
        del gymnasium.registry[name]


def clone(environment: EnvironmentInfo) -> CloneAgent:
    task = Task.in_environment(environment, spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2))
    return CloneAgent(CloneConfig(width=4, depth=1), task)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_without_a_limit(endless: Any, vectorization: Any) -> None:
    """Take the limit that is given, else the environment's, else the agent's."""
    agent = clone(EnvironmentInfo("endless_world:Limited-v0"))
    for asked, expected in ((None, 40), (7, 7), (90, 90)):
        (result,) = evaluate(agent, episodes=3, environments=2, max_episode_steps=asked, vectorization=vectorization)
        assert (result.lengths, result.returns) == ((expected,) * 3, (float(expected),) * 3)
        assert (result.max_episode_steps, result.truncated) == (expected, (True,) * 3)
        assert f"at most {expected} steps an episode; 3 of 3 truncated" in evaluation_table([result])


def test_the_limit_where_the_environment_states_none(endless: Any) -> None:
    (result,) = evaluate(clone(EnvironmentInfo("endless_world:Endless-v0")), episodes=1)
    assert (result.lengths, result.truncated) == ((DEFAULT_MAX_STEPS,), (True,))
    assert result.to_dict()["truncated_episodes"] == 1
    (result,) = evaluate(clone(EnvironmentInfo("endless_world:Endless-v0", {"ends": 30})), episodes=2)
    assert (result.lengths, result.truncated) == ((30, 30), (False, False))
    assert "truncated" not in evaluation_table([result])


def test_an_episode_that_ends_at_the_limit_is_not_truncated(endless: Any) -> None:
    (result,) = evaluate(
        clone(EnvironmentInfo("endless_world:Endless-v0", {"ends": 30})), episodes=2, max_episode_steps=30
    )
    assert (result.lengths, result.truncated) == ((30, 30), (False, False))


@pytest.mark.parametrize("environments", [1, 3])
def test_every_episode_is_reset_as_gymnasium_resets_one(endless: Any, environments: int) -> None:
    evaluate(clone(EnvironmentInfo("endless_world:Limited-v0")), episodes=4, environments=environments)
    assert len(endless.opened) >= 4
    assert [options for options in endless.opened if options is not None] == []


def test_collecting_where_episodes_need_not_end(endless: Any, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["collect", "--policy", "random", "--env", "endless_world:Endless-v0", "--episodes", "1"]
    assert main([*flags, "--out", "minari:test/endless-v0"]) == 0
    assert f"1 of 1 episodes were truncated after {DEFAULT_MAX_STEPS} steps" in capsys.readouterr().out
    episodes = load("minari:test/endless-v0")
    assert (episodes.lengths.tolist(), episodes.truncated.tolist()) == ([DEFAULT_MAX_STEPS], [True])
    written = collect("random", "endless_world:Endless-v0", 2, "test/short-v0", max_episode_steps=11, progress=False)
    assert written.steps == 22


def run_of(tmp_path: Path, **settings: Any) -> Path:
    out = tmp_path / "run"
    settings = {"env": "endless_world:Endless-v0", "steps": 32, "evaluate_every": 0} | settings
    flags = [*words(out, **settings), "--env-kwargs", "pay=-2.0", "max_episode_steps=25"]
    assert main(flags) == 0
    return out


def evaluated(capsys: pytest.CaptureFixture[str], out: Path, *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", str(out), "--episodes", "2", "--json", *flags]) == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def test_evaluation_takes_the_keyword_arguments_of_the_run(
    endless: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that a step pays -2 and an episode ends after 25, as the run's keywords say."""
    out = run_of(tmp_path)
    for name in ("Endless-v0", "endless_world:Endless-v0"):
        values = evaluated(capsys, out, "--env", name)
        assert (values["returns"], values["max_episode_steps"]) == ([-50.0, -50.0], 25)
        assert values["environment_kwargs"]["pay"] == -2.0
    values = evaluated(capsys, out, "--env", "Endless-v0", "--env-kwargs", "pay=3.0")
    assert (values["returns"], values["lengths"]) == ([75.0, 75.0], [25, 25])
    values = evaluated(capsys, out, "--env", "Endless-v0", "--max-episode-steps", "4")
    assert (values["returns"], values["truncated_episodes"]) == ([-8.0, -8.0], 2)
    assert values["environment_kwargs"] == {"pay": -2.0}
    values = evaluated(capsys, out, "--env", "Limited-v0")
    assert (values["returns"], values["environment_kwargs"]) == ([40.0, 40.0], {})
    values = evaluated(capsys, out, "--env", "Limited-v0", "--env-kwargs", "pay=0.5", "--max-episode-steps", "3")
    assert values["returns"] == [1.5, 1.5]
    assert main(["evaluate", str(out), "--env", "Endless-v0", "--episodes", "1"]) == 0
    table = capsys.readouterr().out
    assert "pay=-2.0" in table
    assert "±" not in table


def test_keywords_without_naming_the_environment(
    drift_registered: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert (
        main([*words(out, env="CartPole-v1", steps=32, evaluate_every=0), "--env-kwargs", "max_episode_steps=9"]) == 0
    )
    assert evaluated(capsys, out)["max_episode_steps"] == 9
    values = evaluated(capsys, out, "--env-kwargs", "max_episode_steps=5")
    assert max(values["lengths"]) <= 5
    capsys.readouterr()
    assert main(["evaluate", str(out), "--env-kwargs", "gravty=3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_settings_override_a_specification(endless: Any) -> None:
    """Read a specification as Minari's metadata hold it."""
    made = gymnasium.make("endless_world:Limited-v0", pay=5.0)
    assert made.spec is not None
    info = from_spec(made.spec.to_json())
    changed = make_environment(info.changed({"ends": 6}, 8))
    changed.reset()
    assert [changed.step(0)[1:3] for _ in range(6)] == [(5.0, False)] * 5 + [(5.0, True)]
    assert changed.spec is not None
    assert changed.spec.max_episode_steps == 8
    assert info.changed() == info


def test_targets_for_agents_without_a_target(endless: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="agent clone takes no target return: leave the target out"):
        evaluate(clone(EnvironmentInfo("endless_world:Limited-v0")), episodes=1, targets=[3.0])
    out = run_of(tmp_path)
    capsys.readouterr()
    assert main(["evaluate", str(out), "--env", "Endless-v0", "--target", "100"]) == 2
    assert "agent ppo takes no target return" in capsys.readouterr().err
    with pytest.raises(ValueError, match="agent decision takes no target return"):
        evaluate(agent_of(return_expectile=0.9), episodes=1, targets=[3.0])


@pytest.mark.usefixtures("drift_registered")
def test_a_capped_target_is_reported() -> None:
    agent = agent_of()
    best = agent.task.best_return
    within, beyond = evaluate(agent, episodes=2, targets=[best - 1.0, best + 5000.0])
    assert (within.capped_at, beyond.capped_at) == (None, best)
    (capped,) = evaluate(agent, episodes=2, targets=[best])
    assert capped.returns == pytest.approx(beyond.returns, abs=1e-9)
    assert f"{best + 5000.0:.1f}, capped at {best:.1f}" in evaluation_table([beyond])
    assert "capped" not in evaluation_table([within])
    (free,) = evaluate(agent_of(cap_return=False), episodes=1, targets=[best + 5000.0])
    assert free.capped_at is None


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with EvaluationProgress(10, shown=True, period=0.0) as progress:
        progress.end_episode()
        progress.step(np.array([3, 812]))
    assert "1 of 10 episodes done, the longest running one is at step 812" in capsys.readouterr().err
    with EvaluationProgress(10, shown=False, period=0.0) as progress:
        progress.step(np.array([3]))
    assert capsys.readouterr().err == ""


def test_a_run_in_an_environment_without_a_limit(endless: Any, tmp_path: Path) -> None:
    """Train in a process of its own, whose timeout catches one that hangs."""
    flags = words(tmp_path / "run", env="endless_world:Endless-v0", steps=64, evaluate_every=32, evaluate_max_steps=15)
    done = minrl(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["evaluation"]["lengths"], summary["evaluation"]["truncated_episodes"]) == ([15] * 3, 3)
