"""Guides of the memory tasks: they reach the best return of each, and their actions before the end tell nothing."""

from pathlib import Path

import minari
import pytest

from minrl.agents.__main__ import main
from minrl.collect.record import collect


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.mark.parametrize(
    ("task", "options", "steps"),
    [
        ("TMaze-v0", {"length": 7}, 8),
        ("TMaze-v0", {"length": 5, "active": True, "detour": 3}, 12),
        ("TMaze1000-v0", {}, 1001),
        ("DelayedCue-v0", {"delay": 9, "cues": 3}, 11),
        ("RepeatFirst-v0", {}, 51),
        ("RepeatPrevious-v0", {}, 51),
        ("RepeatPrevious32-v0", {}, 103),
        ("RepeatPrevious-v0", {"k": 7}, 51),
    ],
)
def test_a_guide_earns_the_best_return(task: str, options: dict[str, int], steps: int) -> None:
    found = collect(
        "guide", f"minrl.envs:minrl/{task}", 4, "tests/guided-v0", environment_options=options, progress=False
    )
    assert found.returns == pytest.approx([1.0] * 4)
    assert found.steps == 4 * steps
    episodes = list(minari.load_dataset("tests/guided-v0").iterate_episodes())
    if task.startswith(("TMaze", "DelayedCue")) and not options.get("active"):
        assert all(len(set(episode.actions[:-1].tolist())) == 1 for episode in episodes)


def test_elsewhere_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "--policy", "guide", "--episodes", "1", "--out", "minari:tests/guided-v0"]
    assert main([*words, "--env", "CartPole-v1"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no guide for CartPole-v1" in line
    assert "minrl/TMaze" in line
