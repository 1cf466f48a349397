"""Damage to a checkpoint is noticed, the one before it is read instead, and an archive with code is refused."""

import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import drift_episodes

from minrl.agents.__main__ import main
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data.task import Task
from minrl.runs import checkpoint
from minrl.runs.archive import DamagedFileError, check_archive, is_sound
from minrl.runs.folder import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT


@pytest.fixture(scope="module")
def agent() -> DecisionAgent:
    made = DecisionAgent(DecisionConfig(width=8, depth=1), Task.of(drift_episodes()))
    made.fit_normalization(drift_episodes())
    return made


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


def test_a_flipped_bit_is_noticed_or_changes_nothing(agent: DecisionAgent, tmp_path: Path) -> None:
    """Flip bits of files from many of which torch itself loads other values."""
    file = tmp_path / "agent.pt"
    checkpoint.save(file, agent, step=3)
    whole, kept = file.read_bytes(), vars(checkpoint.read(file))
    draw, noticed, harmless, silent = random.Random(0), 0, 0, 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            found = vars(checkpoint.read(file))
        except ValueError as error:
            noticed += str(file) in str(error)
            try:
                silent += not equal(torch.load(file, weights_only=True)["weights"], kept["weights"])
            except Exception:  # damage that torch notices
                continue
        else:
            harmless += equal(found, kept)
    assert noticed > 100
    assert noticed + harmless == 300
    assert silent > 10  # torch's reader alone would have loaded these


def test_the_previous_checkpoint_is_read_instead_of_a_damaged_one(
    agent: DecisionAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / LAST_CHECKPOINT
    for step in (1, 2, 3):
        checkpoint.save(file, agent, step=step)
    file.write_bytes(file.read_bytes()[:-2000])
    assert checkpoint.read(tmp_path).step == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(file) in said
    assert "step 2" in said
    with pytest.raises(DamagedFileError):
        checkpoint.read(file)  # named itself: another file would be a surprise
    # A damaged file must not take the place of the good one.
    checkpoint.save(file, agent, step=4)
    assert checkpoint.read(tmp_path).step == 4
    assert checkpoint.read(tmp_path / PREVIOUS_CHECKPOINT).step == 2


def test_no_previous_checkpoint_helps_against_code(agent: DecisionAgent, tmp_path: Path) -> None:
    file = tmp_path / LAST_CHECKPOINT
    for step in (1, 2):
        checkpoint.save(file, agent, step=step)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
    with pytest.raises(ValueError, match=r"TorchScript archive, which holds code; refused"):
        checkpoint.read(tmp_path)
    assert main(["evaluate", str(tmp_path)]) == 2


def rewritten(file: Path, method: int = zipfile.ZIP_STORED, **records: bytes) -> None:
    with zipfile.ZipFile(file) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w", method) as new:
        for name, data in content.items():
            new.writestr(name, records.get(name.rpartition("/")[2], data))


def test_archives_that_torch_does_not_write_are_refused(agent: DecisionAgent, tmp_path: Path) -> None:
    file = tmp_path / "agent.pt"
    checkpoint.save(file, agent, step=3)
    rewritten(file)
    check_archive(file)
    rewritten(file, zipfile.ZIP_DEFLATED)  # it might unpack to a thousand times its size
    assert not is_sound(file)


def test_a_tensor_must_not_be_larger_than_its_record(agent: DecisionAgent, tmp_path: Path) -> None:
    """Refuse a pickle by which torch would read beyond the record's end."""
    file = tmp_path / "agent.pt"
    torch.save({"x": torch.zeros(1000)}, file)
    with zipfile.ZipFile(file) as archive:
        pickled = archive.read("agent/data.pkl")
    larger = pickled.replace((1000).to_bytes(2, "little"), (60000).to_bytes(2, "little"))
    assert larger != pickled
    rewritten(file, **{"data.pkl": larger})
    with pytest.raises(ValueError, match=r"240000 bytes that it does not hold"):
        checkpoint.read(file)


@pytest.mark.parametrize("size", [{"depth": 9_999}, {"width": 65_536}, {"width": 60_000, "depth": 2}])
def test_a_backbone_that_its_weights_cannot_fill_is_not_built(
    size: dict[str, int], agent: DecisionAgent, tmp_path: Path
) -> None:
    file = tmp_path / "agent.pt"
    checkpoint.save(file, agent, step=3)
    content = torch.load(file, weights_only=True)
    torch.save({**content, "config": {**content["config"], **size}}, file)
    with pytest.raises(ValueError, match=r"does not fit its own configuration: \d+ weights, width"):
        checkpoint.load(file)
