"""Held-out episodes: their choice, and their loss and action errors."""

import dataclasses
import math
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from forked import cut_off_at
from gymnasium import spaces
from test_resume import rows, whole, words
from worlds import ACTIONS, MIXED, cartpole, drift_episodes, own_folders

from minrl.agent import Batch, Loss
from minrl.agents.__main__ import main
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data import build_episodes, load
from minrl.data.task import Task
from minrl.runs import checkpoint
from minrl.runs.log import STEP, read_log
from minrl.system.distributed import Group
from minrl.system.signals import StopRequest
from minrl.training.evaluator import Evaluator
from minrl.training.loop import TrainingRun
from minrl.training.offline import TrainConfig, resume, train
from minrl.training.validation import (
    ACTION_ERROR,
    LOSS,
    Validation,
    action_errors,
    batches,
    dimension_names,
    split_episodes,
)

__all__ = ["cartpole", "own_folders"]

SMALL = DecisionConfig(width=16, depth=1)


def config_for(data: str, **options: Any) -> TrainConfig:
    defaults = {"steps": 30, "batch_size": 2, "length": 32, "log_every": 10, "evaluate_every": 0, "threads": 1}
    return TrainConfig(data=data, **defaults | options)


def test_a_split_shares_no_episode_and_loses_none() -> None:
    episodes = drift_episodes(count=20)
    learned, held_out = split_episodes(episodes, 0.3, seed=4)
    assert held_out is not None
    assert (len(learned), len(held_out)) == (14, 6)
    ours, theirs = (set(map(tuple, part.final_observations.tolist())) for part in (learned, held_out))
    assert ours | theirs == set(map(tuple, episodes.final_observations.tolist()))
    assert not ours & theirs
    again, other = split_episodes(episodes, 0.3, seed=4)[1], split_episodes(episodes, 0.3, seed=5)[1]
    assert again is not None
    assert other is not None
    assert np.array_equal(again.observations, held_out.observations)
    assert not np.array_equal(other.final_observations, held_out.final_observations)
    assert len(split_episodes(episodes, 0.001, seed=0)[0]) == 19


def test_a_share_of_0_keeps_the_data_set() -> None:
    episodes = drift_episodes(count=3)
    assert split_episodes(episodes, 0.0, seed=0) == (episodes, None)
    with pytest.raises(ValueError, match=r"validation=0.9 of the 3 episodes of drift leaves none to train on"):
        split_episodes(episodes, 0.9, seed=0)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("budget", [1, 50, 10_000])
def test_batches_hold_each_step_once(window: int | None, budget: int) -> None:
    episodes = drift_episodes(count=9)
    seen = []
    for arrays in batches(episodes, budget, window):
        mask = arrays["mask"]
        assert mask.size <= budget or len(mask) == 1
        assert arrays["reset"].sum() == len(mask)
        assert arrays["reset"][:, 0].all()
        assert not arrays["observations"][~mask].any()
        starts = arrays["time_steps"][:, 0]
        assert (starts % (window or 10_000) == 0).all()
        assert (arrays["time_steps"] - starts[:, None] == np.arange(mask.shape[1]))[mask].all()
        seen += arrays["observations"][mask].tolist()
    assert sorted(seen) == sorted(episodes.observations.tolist())


@pytest.mark.parametrize("context", [None, 6], ids=["trajectories", "windows"])
@pytest.mark.parametrize("loss", ["mse", "gaussian"])
def test_the_loss_is_that_of_each_episode_alone(context: int | None, loss: Any) -> None:
    """Compute it in float64, episode by episode and window by window, without padding."""
    episodes = drift_episodes(count=8, seed=3)
    agent = DecisionAgent(DecisionConfig(width=16, depth=1, context=context, action_loss=loss), Task.of(episodes))
    found = Validation(agent, episodes, batch_size=2, length=40).measure()
    exact = agent.double().eval()
    total, errors = 0.0, torch.zeros(2, dtype=torch.float64)
    for e in range(len(episodes)):
        whole = next(batches(episodes.select([e]), 1, None))
        length = whole["mask"].shape[1]
        for begin in range(0, length, context or length):
            part = {name: value[:, begin : begin + (context or length)].copy() for name, value in whole.items()}
            part["reset"][:, 0] = True
            batch = Batch.from_numpy(part).to(torch.float64)
            with torch.no_grad():
                total += exact.loss(batch).total.item()
                errors += (exact.predict(batch) - batch.actions).abs().sum((0, 1))
    assert found[LOSS] == pytest.approx(total / episodes.num_steps, rel=1e-5)
    measured = [found[f"{ACTION_ERROR}_{i}"] for i in range(2)]
    assert measured == pytest.approx((errors / episodes.num_steps).tolist(), rel=1e-5)


@pytest.mark.parametrize("best", [-30.0, -200.0], ids=["all within the best", "most beyond the best"])
@pytest.mark.parametrize("context", [None, 7], ids=["trajectories", "windows"])
def test_validation_targets_the_return_of_the_episode_and_not_of_the_window(context: int | None, best: float) -> None:
    """Use min(the episode's return, the best) less the rewards before t as target at step t, from any window.

    Every reward is -1 to -3: a window that begins late has a return-to-go far above that of its episode.
    """
    random = np.random.default_rng(0)
    lengths = random.integers(20, 60, size=20)
    rewards = -random.uniform(1, 3, size=lengths.sum())
    episodes = build_episodes(
        name="costs", observations=random.normal(size=(len(rewards), 3)), rewards=rewards, lengths=lengths,
        actions=random.uniform(-1, 1, (len(rewards), 2)), final_observations=np.zeros((20, 3)),
        terminated=[True] * 20, truncated=[False] * 20, observation_space=spaces.Box(-9, 9, (3,), np.float32),
        action_space=spaces.Box(-1, 1, (2,), np.float32),
    )  # fmt: skip
    assert episodes.returns.max() < -20
    task = dataclasses.replace(Task.of(episodes), best_return=best)
    config = DecisionConfig(width=8, depth=1, context=context)
    agent = DecisionAgent(config, task).double().eval()
    free = DecisionAgent(dataclasses.replace(config, cap_return=False), task).double().eval()
    free.load_state_dict(agent.state_dict())
    asked = []
    for part in np.split(rewards, np.cumsum(lengths)[:-1]):
        earned = np.cumsum(part) - part
        asked.append(min(part.sum(), best) - earned)
    row_of = {tuple(row): number for number, row in enumerate(episodes.observations.tolist())}
    for arrays in batches(episodes, 300, context):
        batch = Batch.from_numpy(arrays).to(torch.float64)
        right = torch.zeros_like(batch.returns_to_go)
        for at in np.argwhere(arrays["mask"]):
            right[tuple(at)] = np.concatenate(asked)[row_of[tuple(arrays["observations"][tuple(at)].tolist())]]
        found, wanted = agent.predict(batch), free.predict(dataclasses.replace(batch, returns_to_go=right))
        torch.testing.assert_close(found[batch.mask], wanted[batch.mask], rtol=0, atol=1e-5)
        if best == -200.0:
            assert (found - free.predict(batch))[batch.mask].abs().max() > 1e-4  # the cap has an effect


def test_agents_of_the_best_episodes_are_validated_on_the_best() -> None:
    episodes = drift_episodes(count=10)
    agent = CloneAgent(CloneConfig(width=16, depth=1, top=0.3), Task.of(episodes))
    judged = Validation(agent, episodes, batch_size=2, length=40).episodes
    assert 0 < len(judged) < 10
    assert judged.returns.min() >= np.sort(episodes.returns)[-len(judged)]


def test_errors_by_hand() -> None:
    """Measure moves 0.5 and 2 units off, a wrong first choice, a right second one, half wrong, one wrong flag."""
    assert dimension_names(MIXED) == ["flags.0", "flags.1", "move.0", "move.1", "pick.0.0", "pick.1.0", "pick.1.1"]
    space: gymnasium.Space[Any] = MIXED
    taken = {"move": np.array([0.5, 3.0]), "pick": (1, np.array([0, 3])), "flags": np.array([1, 0], np.int8)}
    chosen = {"move": np.array([1.0, 1.0]), "pick": (-1, np.array([0, 2])), "flags": np.array([1, 1], np.int8)}
    rows = [torch.tensor(spaces.flatten(space, x), dtype=torch.float32).unsqueeze(0) for x in (chosen, taken)]
    assert action_errors(space, *rows).tolist() == [[0.0, 1.0, 0.5, 2.0, 1.0, 0.0, 1.0]]
    for name in ("discrete", "multidiscrete", "multibinary", "whole"):
        assert (
            len(dimension_names(ACTIONS[name]))
            == {"discrete": 1, "multidiscrete": 2, "multibinary": 3, "whole": 2}[name]
        )


def test_a_run_without_an_environment_has_a_validation_loss(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--steps", 30, "--batch-size", 2, "--length", 32, "--width", 16, "--depth", 1, "--log-every", 10]
    flags += ["--evaluate-every", 0, "--threads", 1, "--validation", 0.2, "--validate-every", 20, "--data", cartpole]
    assert main(["train", "decision", *map(str, flags), "--out", str(tmp_path / "run")]) == 0
    found = [row for row in read_log(tmp_path / "run") if LOSS in row]
    assert [row[STEP] for row in found] == [20, 30]
    # Random play between two actions can only be guessed.
    assert found[-1][LOSS] == pytest.approx(math.log(2), abs=0.1)
    assert 0.3 < found[-1][f"{ACTION_ERROR}_0"] < 0.7
    shown = capsys.readouterr().out
    assert "held out                6 episodes" in shown
    assert ACTION_ERROR.split("/")[1] not in shown


def test_held_out_episodes_do_not_affect_training(cartpole: str, tmp_path: Path) -> None:
    """Compare with a run on the rest of the data alone, to the bit, normalisation and targets included."""
    result = train(DecisionAgent, SMALL, config_for(cartpole, validation=0.5, validate_every=7), tmp_path / "half")
    learned, _ = split_episodes(load(cartpole), 0.5, seed=0)
    torch.manual_seed(0)
    agent = DecisionAgent(SMALL, Task.of(learned))
    agent.fit_normalization(learned)
    TrainingRun(agent, learned, None, config_for(cartpole), tmp_path, Group(0, 1)).train()
    assert (agent.target_return, agent.return_scale) == (result.agent.target_return, result.agent.return_scale)
    weights = agent.state_dict()
    assert [name for name, value in result.agent.state_dict().items() if not torch.equal(value, weights[name])] == []


def test_validation_does_not_change_training(cartpole: str, tmp_path: Path) -> None:
    for name, every in (("often", 1), ("seldom", 1000)):
        train(DecisionAgent, SMALL, config_for(cartpole, validation=0.2, validate_every=every), tmp_path / name)
    often, seldom = (checkpoint.read(tmp_path / name).weights for name in ("often", "seldom"))
    assert [name for name in often if not torch.equal(often[name], seldom[name])] == []


def test_a_resumed_run_holds_out_the_same_episodes(cartpole: str, tmp_path: Path) -> None:
    """End the run by SIGKILL after a checkpoint whose held-out loss it has logged."""
    settings = {"validation": 0.3, "validate_every": 10, "checkpoint_every": 20, "log_every": 10, "evaluate_every": 0}
    settings |= {"steps": 120}
    out = tmp_path / "killed"
    done = cut_off_at(4, signal.SIGKILL, *words(cartpole, out, **settings))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert 0 < checkpoint.read(out).step < 120
    resume(out)
    whole(cartpole, tmp_path / "whole", **settings)
    assert [row[STEP] for row in rows(out) if LOSS in row] == list(range(10, 121, 10))
    assert rows(out) == rows(tmp_path / "whole")


class Stopping(DecisionAgent):
    """Agent that gets a SIGTERM at each loss outside of training."""

    def loss(self, batch: Batch) -> Loss:
        if not self.training:
            self.calls = getattr(self, "calls", 0) + 1
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(batch)


def test_a_signal_ends_a_validation_at_once(tmp_path: Path) -> None:
    """Check after each batch: a pass over many held-out episodes took 15 s to answer SIGTERM."""
    episodes = drift_episodes(count=12)
    agent = Stopping(DecisionConfig(width=8, depth=1), Task.of(episodes))
    agent.fit_normalization(episodes)
    config = TrainConfig(data="x", steps=4, batch_size=1, length=8, validate_every=2, evaluate_every=0)
    evaluator = Evaluator(agent, config, tmp_path, episodes, episodes)
    with StopRequest() as request:
        assert evaluator.evaluate_step(2, request) is None
        assert request.signal == signal.SIGTERM
    assert agent.calls == 1
