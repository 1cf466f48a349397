"""Evaluations that raise or end the process: the run keeps its weights, and reports the failure."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from forked import minrl
from ppo_runs import TINY as PPO
from ppo_runs import assert_equal, steps_of, weights, words
from worlds import TINY, cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.agents.cli.families import families
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.compare.grid.plan import ComparedTask, ComparisonPlan, Method, PlannedRun, is_done, write_plan
from minrl.compare.run.execute import execute
from minrl.compare.stats.results import read_comparison
from minrl.runs import checkpoint
from minrl.runs.attempt import attempt
from minrl.runs.folder import BEST_CHECKPOINT, ERRORS
from minrl.runs.log import STEP, TIMESTEPS, read_log
from minrl.training.offline import TrainConfig, resume, train

__all__ = ["cartpole", "own_folders"]

FRAGILE = '''
import os

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Fragile(CartPoleEnv):
    """CartPole that does what $FRAGILE says where an evaluation's seed opens the episode."""

    def reset(self, *, seed=None, options=None):
        if seed in (0, 1, 2):
            how = os.environ.get("FRAGILE", "")
            if how == "raise":
                raise RuntimeError("the motor\\nburnt out")
            if how == "kill":
                os._exit(9)
        return super().reset(seed=seed, options=options)


gymnasium.register("Fragile-v0", entry_point="fragile_world:Fragile", max_episode_steps=50)
'''


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write an environment whose evaluations raise while $FRAGILE is set so; training has other seeds."""
    (tmp_path / "fragile_world.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FRAGILE", "raise")
    return "fragile_world:Fragile-v0"


def test_a_run_continues(fragile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """End with the weights of a run without evaluation; its exit code and summary name the failure."""
    out = tmp_path / "run"
    assert main(words(out, env=fragile)) == 1
    printed = capsys.readouterr()
    for step in range(64, 321, 64):
        assert (
            f"the evaluation at step {step} failed: RuntimeError: the motor burnt out; the run continues" in printed.err
        )
    assert f"failed: RuntimeError: the motor burnt out; the weights are saved, evaluate them: minrl evaluate {out}" in (
        printed.out
    )
    assert (out / ERRORS).read_text().count('raise RuntimeError("the motor') == 5
    assert steps_of(out, "eval/failed") == list(range(64, 321, 64))
    assert checkpoint.read(out).step == 320
    assert not (out / BEST_CHECKPOINT).exists()
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["evaluation"], summary["evaluation_failure"]) == (None, "RuntimeError: the motor burnt out")
    assert not is_done(out)
    assert main(words(tmp_path / "none", env=fragile, evaluate_every=0)) == 0
    assert_equal(weights(out), weights(tmp_path / "none"))


def test_it_is_evaluated_where_it_is_resumed(fragile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    assert main(words(out, env=fragile)) == 1
    monkeypatch.setenv("FRAGILE", "")
    assert main(["train", "--resume", str(out), "--env", fragile]) == 0
    assert read_log(out, TIMESTEPS)[-1]["eval/mean_reward"] > 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["evaluation_failure"] is None
    assert len(summary["evaluation"]["returns"]) == PPO["evaluate_episodes"]
    assert is_done(out)


def test_a_process_that_ends_in_an_evaluation(fragile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the checkpoint of that step, and resume from it to the same weights."""
    out, settings = tmp_path / "run", {"env": fragile, "checkpoint_every": 64, "exact_resume": True}
    environ = {**os.environ, "FRAGILE": "kill", "PYTHONPATH": str(tmp_path)}
    done = minrl(*words(out, **settings), cwd=tmp_path, env=environ)
    assert done.returncode == 9, done.stderr
    assert checkpoint.read(out).step == 64
    monkeypatch.setenv("FRAGILE", "")
    assert main(["train", "--resume", str(out), "--env", fragile]) == 0
    assert steps_of(out, "eval/mean_reward") == list(range(64, 321, 64))
    assert main(words(tmp_path / "whole", **settings)) == 0
    assert_equal(weights(out), weights(tmp_path / "whole"))


def test_a_comparison_counts_such_a_run_as_failed(
    fragile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluate it again at the next attempt, without training."""
    values = {name: value for name, value in PPO.items() if name not in ("width", "depth")}
    settings = {"ppo": {"width": 8, "depth": 1}, "train": values | {"env": fragile, "steps": 64}}
    planned = PlannedRun("fragile", "mingru", 0, "online", "ppo", settings)
    tasks, methods = (ComparedTask("fragile", "online", fragile, "Fragile"),), (Method("mingru", ""),)
    write_plan(ComparisonPlan("", tasks, methods, (0,), (planned,), {}), tmp_path)
    outcome = execute(planned, families()["online"], tmp_path)
    assert outcome.signal is None
    assert str(outcome.error).startswith("its evaluation failed: see ")
    (run,) = read_comparison(tmp_path).runs
    assert (run.state, run.reason) == ("failed", "its evaluation failed: RuntimeError: the motor burnt out")
    trained = weights(tmp_path / planned.folder)
    monkeypatch.setenv("FRAGILE", "")
    assert execute(planned, families()["online"], tmp_path).error is None
    (run,) = read_comparison(tmp_path).runs
    assert (run.state, run.last is not None) == ("done", True)
    assert_equal(weights(tmp_path / planned.folder), trained)


def test_offline_runs_continue_after_a_failed_evaluation(cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no physics today")

    config = TrainConfig(data=cartpole, steps=20, batch_size=2, length=32, log_every=5, threads=1, evaluate_every=10,
                         evaluate_episodes=2)  # fmt: skip
    cartpole_env = gymnasium.envs.classic_control.cartpole.CartPoleEnv
    with monkeypatch.context() as patch:
        patch.setattr(cartpole_env, "step", fails)
        result = train(CloneAgent, CloneConfig(width=8, depth=1), config, tmp_path / "run")
    assert (result.step, result.evaluation, result.failure) == (20, None, "RuntimeError: no physics today")
    assert result.signal is None
    assert "the evaluation at step 10 failed: RuntimeError: no physics today" in capsys.readouterr().err
    rows = read_log(tmp_path / "run")
    assert [row[STEP] for row in rows if "eval/failed" in row] == [10, 20]
    assert checkpoint.read(tmp_path / "run").step == 20
    again = resume(tmp_path / "run")
    assert again.failure is None
    assert again.evaluation is not None
    train(CloneAgent, CloneConfig(width=8, depth=1), config, tmp_path / "whole")
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_the_command_reports_the_failure(cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no physics today")

    monkeypatch.setattr(gymnasium.envs.classic_control.cartpole.CartPoleEnv, "step", fails)
    flags = ["train", "clone", "--data", cartpole, "--steps", "4", *map(str, TINY), "--out", str(tmp_path / "run")]
    assert main(flags) == 1
    assert "failed: RuntimeError: no physics today; the weights are saved" in capsys.readouterr().out


def test_signals_and_errors_of_the_disk_pass(tmp_path: Path) -> None:
    for kind in (KeyboardInterrupt, SystemExit):
        with pytest.raises(kind), attempt("evaluation", 3, tmp_path):
            raise kind
    for file in (tmp_path / "targets.json", str(tmp_path / "videos/1.mp4")):
        with pytest.raises(OSError, match="No space"), attempt("evaluation", 3, tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device", file)
    assert not (tmp_path / ERRORS).exists()
    with attempt("evaluation", 3, tmp_path) as tried:
        raise FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/scene.xml")
    assert tried.error is not None
