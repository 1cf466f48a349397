"""Runs of `minrl train sac`: exact resume, what a run loads to, and bad settings in one line."""

from pathlib import Path
from typing import Any

import pytest
from ppo_runs import assert_equal, full_from, numbers, weights

import minrl
from minrl.agents.__main__ import main
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT

TINY: dict[str, Any] = {
    "env": "minrl/PendulumNoVel-v1", "width": 8, "depth": 1, "n_envs": 2, "train_freq": 8, "gradient_steps": 2,
    "batch_size": 32, "segment_length": 8, "buffer_size": 400, "learning_starts": 40, "steps": 320, "log_every": 2,
    "checkpoint_every": 96, "evaluate_every": 160, "evaluate_episodes": 2, "evaluate_max_steps": 20, "threads": 1,
}  # fmt: skip


def words(out: Path, **settings: Any) -> list[str]:
    flags = ["train", "sac", "--no-config", "--out", str(out)]
    for name, value in (TINY | settings).items():
        dashed = name.replace("_", "-")
        flags += [f"--{dashed}"] if value is True else [f"--{dashed}", str(value)]
    return flags


@pytest.mark.parametrize(
    "settings",
    [
        {"previous_reward": True},
        {
            "env": "CartPole-v1", "vectorization": "sync", "row_state": "burn_in", "burn_in": 4,
            "normalize_observations": True, "normalize_rewards": True, "decay": "linear", "buffer_size": 100,
        },
    ],
    ids=["native", "normalised"],
)  # fmt: skip
def test_a_run_that_was_cut_off_equals_one_that_was_not(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = settings | {"exact_resume": True}
    assert main(words(tmp_path / "whole", **settings)) == 0
    with full_from(192):
        assert main(words(tmp_path / "cut", **settings)) == 2
    assert checkpoint.read(tmp_path / "cut").step == 96
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert_equal(weights(tmp_path / "whole", LAST_CHECKPOINT), weights(tmp_path / "cut", LAST_CHECKPOINT))
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")
    assert minrl.load(tmp_path / "whole").name == "sac"


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("gradient_steps must be at least 1, or -1", {"gradient_steps": 0}),
        ("tau must lie in [0, 1]", {"tau": 2.0}),
        ("burn_in counts the steps", {"row_state": "burn_in"}),
        ('ent_coef must be "auto"', {"ent_coef": "much"}),
        ('unknown cell "grv"', {"cell": "grv"}),
    ],
)
def test_bad_settings_are_one_line(
    message: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / "run", **settings)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
