"""`exact_resume`: an interrupted run of recurrent PPO ends equal to an uninterrupted one."""

import signal
from pathlib import Path
from typing import Any

import pytest
from ppo_runs import assert_equal, full_from, numbers, weights, whole, words

from minrl.agents.__main__ import main
from minrl.runs import checkpoint
from minrl.runs.folder import BEST_CHECKPOINT, LAST_CHECKPOINT

CASES: dict[str, dict[str, Any]] = {
    "native": {},
    "sync": {"vectorization": "sync"},
    "normalised": {"normalize_observations": True, "normalize_rewards": True},
    "previous": {"previous_action": True, "previous_reward": True},
    "gSDE": {"env": "Pendulum-v1", "use_sde": True},
    "epochs": {"env": "minrl/RepeatPrevious-v0", "state_refresh": "epoch", "segment_length": 8},
}


def breaks_off(out: Path, at: int, **settings: Any) -> None:
    """Train until the disk is full, from step `at` on."""
    with full_from(at):
        assert main(words(out, **settings)) == 2


# Each case trains two runs: the others add nothing to these but one setting.
FEW = ("native", "normalised", "gSDE")


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_a_run_that_was_cut_off_equals_one_that_was_not(name: str, tmp_path: Path) -> None:
    settings = CASES[name] | {"exact_resume": True, "evaluate_every": 160}
    whole(tmp_path / "whole", **settings)
    breaks_off(tmp_path / "cut", 192, **settings)
    assert checkpoint.read(tmp_path / "cut").step == 96
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    for file in (LAST_CHECKPOINT, BEST_CHECKPOINT):
        assert_equal(weights(tmp_path / "whole", file), weights(tmp_path / "cut", file))
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")


def test_the_runs_differ_without_it(tmp_path: Path) -> None:
    whole(tmp_path / "whole")
    breaks_off(tmp_path / "cut", 192)
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert numbers(tmp_path / "whole") != numbers(tmp_path / "cut")


def test_a_signal_leaves_the_even_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole(tmp_path / "whole", exact_resume=True)
    save = checkpoint.save

    def signalled(path: Path, *values: Any, **options: Any) -> None:
        save(path, *values, **options)
        if options["step"] == 96:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", signalled)
        assert main(words(tmp_path / "cut", exact_resume=True)) == 128 + signal.SIGTERM
    assert "stopped at step 128; the checkpoint of step 96 is kept; resume it by" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")
