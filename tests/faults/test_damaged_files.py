"""Damaged side files of a run: set aside, named in one line and written anew; none stops a run or a report for good."""

import json
import math
import shutil
from pathlib import Path

import pytest
from comparisons import grid
from equality import differences, rows
from ppo_runs import whole as ppo_run
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.compare.grid.plan import is_done
from minrl.runs import checkpoint
from minrl.runs.best import BestCheckpoint
from minrl.runs.folder import BEST_CHECKPOINT, CONFIG, NEXT_BEST, PROGRESS, SUMMARY, TARGETS
from minrl.system.files import DAMAGED

__all__ = ["cartpole", "own_folders"]

SETTINGS = {
    "width": 8, "depth": 1, "batch-size": 2, "length": 16, "threads": 1, "steps": 20, "log-every": 5,
    "checkpoint-every": 10, "evaluate-every": 10, "evaluate-episodes": 2, "evaluate-max-steps": 20,
    "target-sweep": "all",
}  # fmt: skip


@pytest.fixture
def run(cartpole: str, tmp_path: Path) -> Path:
    """Return the folder of a finished run."""
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    assert main(["train", "decision", "--data", cartpole, "--out", str(tmp_path / "run"), *flags]) == 0
    return tmp_path / "run"


def bad_byte(data: bytes) -> bytes:
    middle = data.index(b"\n") + 4
    return data[:middle] + b"\xff" + data[middle + 1 :]


def test_a_resumption_that_was_killed_leaves_no_damage(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Repeat the last evaluation, whose row a killed resumption dropped after the last checkpoint counted it."""
    settings = SETTINGS | {"steps": 10}
    flags = [*(word for name, value in settings.items() for word in (f"--{name}", str(value))), "--choose-target"]
    run = tmp_path / "run"
    assert main(["train", "decision", "--data", cartpole, "--out", str(run), *flags]) == 0
    whole = rows(run)
    text = (run / PROGRESS).read_text()
    assert "eval/mean_reward" in dict(whole[-1])
    (run / PROGRESS).write_text(text[: text.rstrip("\n").rindex("\n") + 1])
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    assert DAMAGED not in capsys.readouterr().err
    assert rows(run) == whole


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "a bad byte": bad_byte,
    "other content": lambda data: b'[{"a": 1}, null, 3]',
    "NUL": lambda data: bytes(len(data)),
}


FILES = [TARGETS, PROGRESS, SUMMARY, CONFIG, BEST_CHECKPOINT]
# Each file with two of the damages, and each damage of two files.
SOME = [(name, [list(DAMAGES)[(place + more) % len(DAMAGES)] for more in (0, 1)]) for place, name in enumerate(FILES)]


@pytest.mark.parametrize(
    ("name", "damages"),
    [*SOME, *(pytest.param(name, list(DAMAGES), marks=pytest.mark.slow) for name in FILES)],
    ids=str,
)
def test_a_run_goes_on_and_writes_a_damaged_file_anew(
    name: str, damages: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for damage in damages:
        change = DAMAGES[damage]
        folder = tmp_path / damage
        shutil.copytree(run, folder)
        broken = change((folder / name).read_bytes())
        (folder / name).write_bytes(broken)
        capsys.readouterr()
        assert main(["train", "--resume", str(folder)]) == 0, damage
        said = [line for line in capsys.readouterr().err.splitlines() if DAMAGED in line]
        readable = name == SUMMARY or (name == PROGRESS and damage in ("empty", "cut"))
        if not readable:
            assert len(said) == 1, (damage, said)
            assert f"{folder / name} is damaged" in said[0]
            assert (folder / (name + DAMAGED)).read_bytes() == broken
        if name == TARGETS:
            assert {row["step"] for row in json.loads((folder / name).read_text())} == {20}
        elif name in (SUMMARY, BEST_CHECKPOINT):
            wrong = [text for text in differences(run, folder) if not text.startswith("left over")]
            assert wrong == ([BEST_CHECKPOINT] if wrong and name == BEST_CHECKPOINT else []), damage
            assert checkpoint.read(folder / BEST_CHECKPOINT).step <= 20
        elif name == CONFIG:
            assert (folder / name).read_bytes() == (run / name).read_bytes()


def test_edits_of_the_settings_change_nothing_and_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (run / CONFIG).read_text()
    (run / CONFIG).write_text(text.replace("\nsteps = 20\n", "\nsteps = 40\n").replace("width = 8", "width = 9"))
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    (said,) = (line for line in capsys.readouterr().err.splitlines() if CONFIG in line)
    assert "was edited (decision.width = 9, train.steps = 40), which changes nothing" in said
    assert checkpoint.read(run).step == 20


def test_a_comparison_trains_a_run_again_whose_summary_is_damaged(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grid(tmp_path, f'cells = ["mingru"]\nseeds = 1\n[tasks.t]\ndata = "{cartpole}"')
    out, command = tmp_path / "out", ["compare", str(path), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (run,) = (file.parent for file in out.glob(f"runs/*/*/*/{SUMMARY}"))
    kept = json.loads((run / SUMMARY).read_text())["evaluation"]
    for text in ("", "[]", "{}", '{"step": "x"}', '{"step": 20, "evaluation": 3}', "null"):
        (run / SUMMARY).write_text(text)
        assert not is_done(run)
    assert main([*command, "--report-only"]) == 0
    assert "Runs without a score" in capsys.readouterr().out
    assert main(command) == 0
    assert "1 methods x tasks x seeds" not in capsys.readouterr().out
    assert json.loads((run / SUMMARY).read_text())["evaluation"] == kept
    for name in ("state.json", "grid.toml"):
        (out / name).write_text("{")
        assert main(command) == 0, name
    (run / CONFIG).write_text("[")
    assert main(command) == 0


def test_a_best_checkpoint_after_the_last_one_is_dropped(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ppo_run(out, steps=64, checkpoint_every=64, evaluate_every=64)
    agent, step = checkpoint.load(out), 64

    def note(score: float) -> dict[str, object]:
        return {"evaluation": {"mean_return": score}}

    best = BestCheckpoint(out)
    best.restore(5.0, step)
    kept = (out / BEST_CHECKPOINT).read_bytes()
    best.offer(agent, 80, 6.0, note(6.0))
    assert (out / BEST_CHECKPOINT).read_bytes() == kept
    # Killed before the next checkpoint: the weights of step 80 are dropped.
    again = BestCheckpoint(out)
    again.restore(5.0, step)
    assert not (out / NEXT_BEST).exists()
    assert (again.score, (out / BEST_CHECKPOINT).read_bytes()) == (5.0, kept)
    # Killed between the checkpoint of step 96 and the renaming.
    again.offer(agent, 80, 6.0, note(6.0))
    third = BestCheckpoint(out)
    third.restore(6.0, 96)
    assert checkpoint.read(out / BEST_CHECKPOINT).step == 80
    # The last checkpoint is damaged, so the run resumes from the one before.
    fourth = BestCheckpoint(out)
    fourth.restore(5.0, step)
    assert (fourth.score, (out / BEST_CHECKPOINT).exists()) == (-math.inf, False)
