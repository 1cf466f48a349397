"""Evaluation: every numbered episode is run whole, however many environments run them.

Shapes: B environments.
"""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from decision_agents import agent_of
from worlds import drift_registered, own_folders

from minrl.agent import Moment
from minrl.data import EnvironmentInfo
from minrl.evaluate import Evaluation, evaluate
from minrl.runs.summary import evaluation_table

__all__ = ["drift_registered", "own_folders"]
pytestmark = pytest.mark.usefixtures("drift_registered")


def by_hand(agent: Any, seed: int, target: float | None = None) -> tuple[float, int]:
    """Return the return and length of one episode in one plain environment."""
    world = gymnasium.make("Drift-v0", **agent.task.environment.kwargs)
    observation, _ = world.reset(seed=seed)
    state = agent.initial_state(1, target)
    total, steps, reward, over = 0.0, 0, 0.0, False
    while not over:
        moment = Moment(
            torch.tensor(observation[None]).double(),
            torch.tensor([reward], dtype=torch.float64),
            torch.tensor([steps == 0]),
        )
        with torch.inference_mode():
            action, state = agent.act(moment, state)
        observation, reward, *over, _ = world.step(action[0].numpy())
        over, total, steps = any(over), total + reward, steps + 1
    return total, steps


def test_as_a_plain_loop() -> None:
    agent = agent_of(previous_action=True)
    (result,) = evaluate(agent, episodes=9, environments=4, seed=30)
    wanted = [by_hand(agent, seed) for seed in range(30, 39)]
    assert result.returns == pytest.approx([total for total, _ in wanted], abs=1e-9)
    assert list(result.lengths) == [steps for _, steps in wanted]
    assert result.seeds == tuple(range(30, 39))
    assert len(set(result.lengths)) > 4


@pytest.mark.parametrize("environments", [1, 5, 100])
def test_the_number_of_environments_has_no_effect(environments: int) -> None:
    """Play the same twelve episodes with any number, so that none is left out for being long."""
    agent = agent_of()
    (alone,) = evaluate(agent, episodes=12, environments=1)
    (result,) = evaluate(agent, episodes=12, environments=environments)
    assert result.returns == pytest.approx(alone.returns, abs=1e-9)
    assert result.lengths == alone.lengths


def test_several_targets_side_by_side() -> None:
    agent = agent_of()
    together = evaluate(agent, episodes=7, environments=3, targets=[-20.0, 5.0, 80.0])
    for target, result in zip([-20.0, 5.0, 80.0], together, strict=True):
        (alone,) = evaluate(agent, episodes=7, environments=3, targets=[target])
        assert result.target_return == target
        assert result.returns == pytest.approx(alone.returns, abs=1e-9)
        assert result.returns[0] == pytest.approx(by_hand(agent, 0, target)[0], abs=1e-9)
    assert len({result.returns for result in together}) == 3


def test_environments_in_processes_of_their_own() -> None:
    agent = agent_of()
    (apart,) = evaluate(agent, episodes=5)
    (result,) = evaluate(agent, episodes=5, environments=2, vectorization="async")
    assert result.returns == pytest.approx(apart.returns, abs=1e-9)


@pytest.mark.parametrize("actions", ["discrete", "mixed", "whole"])
def test_other_actions(actions: str) -> None:
    (result,) = evaluate(agent_of(actions), episodes=3, environments=2)
    assert min(result.lengths) >= 1


def test_sampled_actions_differ() -> None:
    agent = agent_of(action_loss="gaussian")
    likely, sampled = (evaluate(agent, episodes=3, deterministic=d)[0].returns for d in (True, False))
    assert likely != sampled


def test_the_report_names_its_settings() -> None:
    agent = agent_of(target_return=17.0)
    (result,) = evaluate(agent, episodes=6, seed=3)
    values = result.to_dict()
    assert values["environment"] == "Drift-v0"
    assert values["episodes"] == 6
    assert values["target_return"] == 17.0
    assert values["seeds"] == [3, 4, 5, 6, 7, 8]
    assert {"minrl", "torch", "gymnasium", "mujoco"} <= set(values["versions"])
    assert values["mean_length"] == pytest.approx(np.mean(result.lengths))
    table = evaluation_table([result])
    for text in ("Drift-v0", "17.0", "mujoco", f"{result.mean_return:.1f}", "seeds 3 to 8", "normalised score"):
        assert text in table


def evaluation_of(returns: tuple[float, ...], scores: tuple[float, float] | None) -> Evaluation:
    count = len(returns)
    return Evaluation("X-v0", None, returns, (1,) * count, tuple(range(count)), scores, {})


def test_scores_and_standard_errors_in_closed_form() -> None:
    values = evaluation_of((10.0, 20.0, 60.0), (-10.0, 40.0)).to_dict()
    assert values["mean_return"] == 30.0
    # Sample variance (400 + 100 + 900) / 2 = 700, over three episodes.
    assert values["standard_error"] == pytest.approx(math.sqrt(700 / 3))
    assert values["normalized_score"] == pytest.approx(80.0)
    assert values["normalized_standard_error"] == pytest.approx(2 * math.sqrt(700 / 3))


def test_one_episode_and_no_reference_scores() -> None:
    values = evaluation_of((10.0,), None).to_dict()
    assert values["standard_error"] is None
    assert values["normalized_score"] is None
    assert "normalised" not in evaluation_table([evaluation_of((10.0,), None)])
    assert evaluation_of((10.0,), (0.0, 20.0)).to_dict()["normalized_standard_error"] is None
    table = evaluation_table([evaluation_of((10.0,), (0.0, 20.0))])
    assert "±" not in table
    assert "50.0 (0 random, 100 expert)" in table
    assert "seed 0" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"environment": EnvironmentInfo("Pendulum-v1")}, "Pendulum-v1: its action space .* does not match"),
        ({"environment": EnvironmentInfo("CartPole-v1")}, "CartPole-v1: its observation space .* does not match"),
        ({"environment": EnvironmentInfo("Driftt-v0")}, "Driftt-v0 cannot be made"),
        ({"episodes": 0}, "episodes and environments must be at least 1, got 0 and 10"),
        ({"environments": 0}, "episodes and environments must be at least 1, got 20 and 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1, got 0"),
        ({"targets": []}, "the list of target returns is empty"),
        ({"targets": [1.0, math.nan]}, "the target return must be a number, got nan"),
        ({"targets": [math.inf]}, "the target return must be a number, got inf"),
        ({"vectorization": "asinc"}, 'unknown vectorization "asinc"; did you mean "async"'),
    ],
)
def test_bad_requests(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(agent_of(), **options)
    assert "\n" not in str(caught.value)


def test_the_agent_is_left_unchanged() -> None:
    agent = agent_of()
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    numbers = torch.get_rng_state()
    evaluate(agent, episodes=2)
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())
    assert torch.equal(numbers, torch.get_rng_state())
