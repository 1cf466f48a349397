"""Programs behind the cell cards and the T-Maze table: labels, scores and budgets."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a program of `benchmarks/`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.mark.parametrize("name", ["RepeatPrevious 4", "RepeatPrevious 16", "DelayedCue 20", "T-Maze 50"])
def test_the_cloned_actions_earn_the_best_return(name: str, programs: Any) -> None:
    """Take the labels step by step in the environment."""
    learn = programs("cell_tasks").TASKS[name].learn
    vector = learn._vector(20)
    seen, returns = [vector.reset(seed=3)[0]], np.zeros(20)
    while True:
        actions = np.maximum(learn.right(np.stack(seen, axis=1))[:, -1], 0)
        observation, rewards, terminated, truncated, _ = vector.step(actions)
        returns += rewards
        if (terminated | truncated).all():
            break
        seen.append(observation)
    np.testing.assert_allclose(returns, 1.0, atol=1e-9)
    np.testing.assert_array_equal(learn._observed(5).shape, (5, len(seen)))


def test_a_model_is_scored_by_acting(programs: Any) -> None:
    """Score near chance after one training step, and keep the budget's numbers."""
    tasks = programs("cell_tasks")
    task = tasks.TASKS["DelayedCue 20"]
    found = tasks.within(tasks.replace(task, seconds=1e-9), "mingru")
    assert found.steps == 3
    assert found.seconds > 0
    assert found.score < 0.7


def test_a_score_is_bold_where_solved_and_starred_where_time_ran_out(programs: Any) -> None:
    cards = programs("cell_cards")
    task = programs("cell_tasks").TASKS["DelayedCue 20"]
    full = {"steps": task.training.steps}
    assert cards.shown({"score": 1.0, **full}, task) == "**1.00**"
    assert cards.shown({"score": 0.3, "steps": 7}, task) == "0.30\\*"
    assert cards.shown(None, task) == "-"


def test_finished_parts_are_not_measured_again(programs: Any, tmp_path: Path) -> None:
    kept, made = programs("cell_cards").kept, []

    def measure() -> dict[str, int]:
        made.append(1)
        return {"score": len(made)}

    assert kept(tmp_path / "a.json", {"steps": 5}, measure) == {"score": 1}
    assert kept(tmp_path / "a.json", {"steps": 5}, measure) == {"score": 1}
    assert kept(tmp_path / "a.json", {"steps": 6}, measure) == {"score": 2}


def test_the_guide_finds_every_goal_and_one_side_is_half(
    programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmaze = programs("tmaze")
    monkeypatch.setattr(tmaze, "EPISODES", 12)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))  # restores the program's own setting
    tmaze.write_data(tmp_path)
    from minrl.data import load

    episodes = load(f"minari:{tmaze.DATA}")
    assert episodes.returns.tolist() == [1.0] * 12
    assert episodes.lengths.min() >= tmaze.SHORTEST + 1
    assert episodes.lengths.max() == tmaze.LENGTH + 1
    cues = episodes.observations[episodes.offsets[:-1]].argmax(1)
    assert set(cues.tolist()) == {2, 3}

    environment = tmaze.make_environment(tmaze.EnvironmentInfo(tmaze.TASK))
    up = [float(environment.reset(seed=seed)[0] == tmaze.CUE_UP) for seed in range(30)]
    assert 0 < sum(up) != 15
    found = tmaze.success({"seeds": list(range(30)), "returns": up})
    assert found == {"success": 0.5, "cue_up": 1.0, "cue_down": 0.0}
