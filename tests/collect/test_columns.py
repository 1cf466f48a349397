"""`minrl data select`: a set of some columns of another's observations, as Minari and the environments see it."""

import json
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest

from minrl.agents.__main__ import main
from minrl.data import load
from minrl.data.minari.columns import parse_columns

SOURCE = "minari:minrl/hopper/medium-replay-v0"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_positions_of_a_robot(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compare with the source as it is, and with what the position-only environment shows."""
    words = ["data", "select", SOURCE, "--columns", "0-4", "--env", "minrl/Hopper-P-v5", "--name", "me/positions-v0"]
    assert main(words) == 0
    assert "144 episodes, 70137 steps, environment minrl/Hopper-P-v5" in capsys.readouterr().out
    whole, part = load(SOURCE), load("minari:me/positions-v0")
    np.testing.assert_array_equal(part.observations, whole.observations[:, :5])
    np.testing.assert_array_equal(part.final_observations, whole.final_observations[:, :5])
    for name in ("actions", "rewards", "offsets", "terminated", "truncated", "returns_to_go"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name))
    assert part.reference_scores == whole.reference_scores
    theirs = minari.load_dataset("me/positions-v0")
    assert theirs.total_steps == whole.num_steps
    environment = theirs.recover_environment(eval_env=True)
    full = gymnasium.make("Hopper-v5")
    shown, everything = environment.reset(seed=5)[0], full.reset(seed=5)[0]
    np.testing.assert_array_equal(shown, everything[:5])
    assert theirs.observation_space.shape == environment.observation_space.shape == (5,)
    new = json.loads((root / "me/positions-v0/data/metadata.json").read_text())
    assert (new["source_dataset"], new["source_columns"]) == (SOURCE, [0, 1, 2, 3, 4])
    assert new["author"] == ["minrl"]
    assert new["algorithm_name"] == "PPO snapshots"
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_any_order_and_no_environment(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    observations = random.normal(size=(60, 4)).astype(np.float32)
    with h5py.File(tmp_path / "flat.hdf5", "w") as file:
        file["observations"], file["rewards"] = observations, random.normal(size=60).astype(np.float32)
        file["actions"] = random.uniform(-1, 1, size=(60, 2)).astype(np.float32)
        file["terminals"], file["timeouts"] = np.zeros(60, bool), np.arange(60) % 20 == 19
    words = ["data", "select", f"hdf5:{tmp_path}/flat.hdf5", "--name", "minari:me/two-v0", "--columns"]
    assert main([*words, "3", "0-1"]) == 0
    part = load("minari:me/two-v0")
    assert part.environment is None
    assert part.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    np.testing.assert_array_equal(part.observations, load(f"hdf5:{tmp_path}/flat.hdf5").observations[:, [3, 0, 1]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0-11"], "columns lie from 0 to 10"),
        (["0", "x"], "numbers or ranges"),
        (["4-2"], "numbers or ranges"),
        (["1", "0-1"], "each column once"),
        (["0-5", "--env", "minrl/Hopper-P-v5"], "the observation space"),
        (["0-4", "--env", "minrl/Swimmer-P-v5"], "space"),
        (["0-4", "--env", "minrl/NoSuch-v5"], "cannot be made"),
        (["0-4", "--env-kwargs", "zeroed=true"], "name it with --env"),
    ],
)
def test_faults_are_one_line_and_write_nothing(
    words: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "select", SOURCE, "--name", "me/wrong-v0", "--columns", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (root / "me").exists()


def test_columns_are_numbers_and_ranges() -> None:
    assert parse_columns(["7", "0-2", "5-5"]) == [7, 0, 1, 2, 5]
