"""`relabel_returns` and `choose_target` in whole runs: off they have no effect, on they resume to the bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import TINY, cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.runs import checkpoint
from minrl.runs.folder import RELABEL_SUMMARY, RETURNS_TO_GO, TARGET_CHOICE
from minrl.runs.log import read_log
from minrl.training import relabel_returns as training_relabel_returns
from minrl.training.offline import TrainConfig, resume, train
from minrl.training.target_search import SEED_OFFSET

__all__ = ["cartpole", "own_folders"]

AGENT = DecisionConfig(width=16, depth=1)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_relabel_returns, "STEPS", 100)


def config_for(data: str, **options: Any) -> TrainConfig:
    defaults = {"steps": 24, "batch_size": 2, "length": 24, "checkpoint_every": 10, "evaluate_every": 24}
    return TrainConfig(data=data, evaluate_episodes=3, threads=1, target_sweep="none", **defaults | options)


def cut_off(config: TrainConfig, out: Path, monkeypatch: pytest.MonkeyPatch, step: int = 17) -> None:
    """Train until an interrupt in step `step`."""
    loss, calls = DecisionAgent.loss, iter(range(10**6))

    def failing(*arguments: Any) -> Any:
        if next(calls) == step:
            raise KeyboardInterrupt
        return loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DecisionAgent, "loss", failing)
        with pytest.raises(KeyboardInterrupt):
            train(DecisionAgent, AGENT, config, out)


def same_weights(a: Path, b: Path) -> bool:
    first, second = checkpoint.read(a).weights, checkpoint.read(b).weights
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_relabelled_run(validation: float, cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(cartpole, relabel_returns=True, validation=validation)
    result = train(DecisionAgent, AGENT, config, tmp_path / "whole")
    found = json.loads((tmp_path / "whole" / RELABEL_SUMMARY).read_text())
    best = checkpoint.read(tmp_path / "whole").task["best_return"]
    assert best == result.agent.target_return == pytest.approx(found["best_return_relabelled"])
    assert best >= found["best_return"]
    cut_off(config, tmp_path / "cut", monkeypatch)
    kept = (tmp_path / "cut" / RETURNS_TO_GO).read_bytes()
    assert kept == (tmp_path / "whole" / RETURNS_TO_GO).read_bytes()
    monkeypatch.setattr(training_relabel_returns.Value, "learn", None)  # the saved labels are used
    resume(tmp_path / "cut")
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    train(DecisionAgent, AGENT, config_for(cartpole, validation=validation), tmp_path / "plain")
    assert not same_weights(tmp_path / "whole", tmp_path / "plain")


def test_a_run_whose_target_is_chosen(cartpole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(cartpole, choose_target=True, evaluate_every=12)
    result = train(DecisionAgent, AGENT, config, tmp_path / "whole")
    found = json.loads((tmp_path / "whole" / TARGET_CHOICE).read_text())
    assert result.evaluation is not None
    rows = found["candidates"]
    assert found["chosen"] == max(rows, key=lambda row: row["mean_return"])["target_return"]
    assert {seed for row in rows for seed in row["seeds"]}.isdisjoint(result.evaluation.seeds)
    assert rows[0]["seeds"] == [SEED_OFFSET, SEED_OFFSET + 1, SEED_OFFSET + 2]
    # It is the target of the run's agent from then on, first in the evaluation.
    agent = checkpoint.load(tmp_path / "whole")
    assert agent.target_return == found["chosen"] == result.evaluation.target_return
    # Until then the target is that of a run without a search, and so are the weights.
    plain = train(DecisionAgent, AGENT, config_for(cartpole, evaluate_every=12), tmp_path / "plain")
    assert same_weights(tmp_path / "whole", tmp_path / "plain")
    first, other = (
        [row["eval/mean_reward"] for row in read_log(tmp_path / name) if "eval/mean_reward" in row]
        for name in ("whole", "plain")
    )
    assert first[0] == other[0]
    assert plain.agent.target_return == plain.agent.task.best_return
    cut_off(config, tmp_path / "cut", monkeypatch)
    again = resume(tmp_path / "cut")
    assert again.evaluation == result.evaluation
    assert resume(tmp_path / "whole").evaluation == result.evaluation  # a finished run repeats its choice
    assert json.loads((tmp_path / "cut" / TARGET_CHOICE).read_text()) == found


def test_options_on_the_command_line(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Report what was relabelled and chosen, and on which episodes; refuse wrong settings in one line."""
    flags = [*TINY, "--data", cartpole, "--steps", 10, "--evaluate-episodes", 2, "--target-sweep", "none"]

    def command(name: str, *more: Any) -> int:
        return main([str(word) for word in ["train", "decision", *flags, "--out", tmp_path / name, *more]])

    assert command("run", "--relabel-returns", "--choose-target") == 0
    shown = capsys.readouterr().out
    seeds = f"seeds {2**30} to {2**30 + 1}"
    for text in ("returns-to-go raised", "value function", "targets tried (return)", seeds):
        assert text in shown
    for wrong, message in (
        (
            ["--choose-target", "--evaluate-every", 0],
            "choose_target evaluates the agent: it needs evaluate_every above 0",
        ),
        (["--choose-target", "--return-expectile", 0.9], "choose_target: the decision agent with these settings"),
        (["--relabel-returns", "--cell", "mingro"], 'did you mean "mingru"'),
    ):
        assert command("wrong", *wrong) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "2", "--json"]) == 0
    assert np.load(tmp_path / "run" / RETURNS_TO_GO).dtype == np.float32
