"""popgym's ids: PPO trains on their spaces, and a run is evaluated from its folder."""

import json
from pathlib import Path

import pytest

from minrl.agents.__main__ import main

# Discrete; Tuple; MultiDiscrete observations; MultiDiscrete actions; Box with continuous actions.
IDS = ("RepeatFirstEasy", "AutoencodeEasy", "CountRecallEasy", "MineSweeperEasy", "NoisyPositionOnlyPendulumEasy")
SHORT = ("--n-envs", "2", "--n-steps", "32", "--n-epochs", "1", "--steps", "128", "--width", "16", "--threads", "1")


@pytest.mark.parametrize("name", IDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ppo_trains_on_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("popgym")
    run = str(tmp_path / "run")
    words = ["train", "ppo", "--env", f"popgym-{name}-v0", *SHORT, "--evaluate-episodes", "1", "--out", run]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--episodes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["environment"] == f"popgym-{name}-v0"
    # Returns of popgym lie in [-1, 1].
    assert all(-1.001 <= value <= 1.001 for value in found["returns"])
