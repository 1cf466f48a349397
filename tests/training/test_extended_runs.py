"""Extending finished runs, against runs of the full length, and scores as JSON."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ppo_runs import assert_equal, numbers, weights, whole, words
from worlds import TINY, cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.runs.log import STEP, read_log

__all__ = ["cartpole", "own_folders"]


def flags(**settings: Any) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def offline(data: str, out: Path, **settings: Any) -> None:
    given = {"data": data, "out": out, "log_every": 2, "checkpoint_every": 3, "evaluate_every": 4}
    given |= {"evaluate_episodes": 1, **settings}
    assert main(["train", "decision", *map(str, TINY), *flags(**given)]) == 0


def rows(out: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_log(out)]


def test_an_extended_offline_run_equals_a_longer_one(cartpole: str, tmp_path: Path) -> None:
    """Extend under a constant learning rate, where the planned number of steps decides nothing but the end."""
    settings: dict[str, Any] = {"decay": "constant", "warmup": 0, "average": 0.9}
    offline(cartpole, tmp_path / "whole", steps=12, **settings)
    offline(cartpole, tmp_path / "cut", steps=8, **settings)
    assert main(["train", "--resume", str(tmp_path / "cut"), "--steps", "12"]) == 0
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    settled = [(tmp_path / name / "config.toml").read_text() for name in ("cut", "whole")]
    assert settled[0] == settled[1]
    # Extend once more, without naming the steps again.
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_the_learning_rate_of_a_longer_run(cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Follow half a cosine over all steps, as the run reports."""
    offline(cartpole, tmp_path / "run", steps=8, warmup=0, learning_rate=0.01)
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run"), "--steps", "16"]) == 0
    rates = {
        int(row[STEP]): row["train/learning_rate"] for row in rows(tmp_path / "run") if "train/learning_rate" in row
    }
    for step, rate in rates.items():
        total = 8 if step <= 8 else 16
        assert rate == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * (step - 1) / total)), rel=1e-6)
    assert sorted(rates) == list(range(2, 17, 2))
    said = capsys.readouterr().out
    assert "step 8 of 16 instead of 8: the learning rate continues at 0.005" in said


def test_an_extended_online_run_equals_a_longer_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"decay": "constant", "exact_resume": True, "checkpoint_every": 160}
    whole(tmp_path / "whole", steps=480, **settings)
    whole(tmp_path / "cut", steps=320, **settings)
    assert main(["train", "--resume", str(tmp_path / "cut"), "--steps", "480"]) == 0
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert numbers(tmp_path / "cut")[-1] == numbers(tmp_path / "whole")[-1]
    assert (tmp_path / "cut/config.toml").read_text() == (tmp_path / "whole/config.toml").read_text()


def test_the_linear_decay_of_a_longer_online_run(tmp_path: Path) -> None:
    whole(tmp_path / "run", steps=128)
    assert main(["train", "--resume", str(tmp_path / "run"), "--steps", "256"]) == 0
    rates = {int(row["time/total_timesteps"]): row.get("train/learning_rate") for row in numbers(tmp_path / "run")}
    # The update after a rollout that ends at step s has a remaining progress of 1 - s / total.
    assert rates[192] == pytest.approx(0.01 * (1 - 192 / 256))


@pytest.mark.parametrize("kind", ["offline", "online"])
def test_fewer_steps_than_were_made(
    kind: str, cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "offline":
        offline(cartpole, tmp_path / "run", steps=8)
    else:
        whole(tmp_path / "run", steps=64)
    before = (tmp_path / "run/config.toml").read_bytes()
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run"), "--steps", "3"]) == 2
    error = capsys.readouterr().err
    assert f"has made {8 if kind == 'offline' else 64} steps already: --steps N is the total number of steps" in error
    assert error.count("\n") == 1
    assert (tmp_path / "run/config.toml").read_bytes() == before


def printed(words: list[Any], capfd: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """Return the one object that a command prints, and its standard error."""
    capfd.readouterr()
    assert main([str(word) for word in words]) == 0
    said = capfd.readouterr()
    (line,) = said.out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found, said.err


def test_scores_as_json(cartpole: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Compare with the scores of `minrl evaluate`; all else goes to standard error."""
    out = tmp_path / "my run"
    settings = flags(data=cartpole, steps=4, evaluate_episodes=3, out=out)
    found, said = printed(["train", "decision", *TINY, *settings, "--json"], capfd)
    again, _ = printed(["evaluate", out, "--episodes", 3, "--json"], capfd)
    for name in ("agent", "step", "mean_return", "normalized_score", "returns", "seeds", "parameters"):
        assert found[name] == again[name], name
    assert found["run"] == str(out)
    assert "train/" in said
    # The folder's name has a blank, so the suggested command quotes it.
    assert f"dashboard '{out}'" in said


def test_scores_of_an_online_run_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found, _ = printed([*words(tmp_path / "run", steps=64, evaluate_episodes=2), "--json"], capfd)
    assert (found["agent"], found["step"], found["episodes"]) == ("ppo", 64, 2)
    resumed, _ = printed(["train", "--resume", tmp_path / "run", "--json"], capfd)
    assert resumed["returns"] == found["returns"]


def test_json_without_an_evaluation(cartpole: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = flags(data=cartpole, steps=2, evaluate_every=0, out=tmp_path / "run")
    found, _ = printed(["train", "decision", *TINY, *settings, "--json"], capfd)
    assert found["mean_return"] is None
    assert found["step"] == 2
