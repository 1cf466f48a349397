"""Mutants of every reader's files load, or are refused in one line with exit code 2."""

import re
from collections import Counter
from pathlib import Path

import pytest
from fuzz import READERS, fuzz, make_sample
from fuzz_results import GOOD, LOADS, REFUSED, Outcome

from minrl.data.minari.load import load_folder

FEW, MANY = 300, 10_000  # mutants of each reader in `make test`, and in the slow tests


def faults_of(name: str, folder: Path, numbers: range, seed: int = 0) -> tuple[list[Outcome], Counter[str]]:
    found = list(fuzz(name, make_sample(name, folder / "sample"), numbers, seed))
    assert [outcome.number for outcome in found] == list(numbers)
    return [outcome for outcome in found if outcome.kind not in GOOD], Counter(outcome.kind for outcome in found)


@pytest.mark.parametrize("name", READERS)
def test_a_mutant_loads_or_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    faults, kinds = faults_of(name, tmp_path, range(FEW))
    assert not faults
    assert kinds[LOADS] > 0 or name in ("config", "cache")  # one's command ends at the data set that is missing
    assert kinds[REFUSED] > 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", READERS)
def test_many_mutants_load_or_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Draw other mutants than the test above and `fuzz.json`."""
    faults, _ = faults_of(name, tmp_path, range(MANY), seed=1)
    assert not faults


def test_a_damaged_tree_of_names_is_refused(tmp_path: Path) -> None:
    """Point the right neighbour of each node of a group's B-tree at space that libhdf5 keeps for itself."""
    data = make_sample("Minari HDF5", tmp_path / "sample") / "set-v0/data"
    content = bytearray((data / "main_data.hdf5").read_bytes())
    for node in re.finditer(rb"TREE\x00", bytes(content)):
        content[node.start() + 18] = 0xFB  # signature, type, level and entries (8), left neighbour (8), right one (8)
    (data / "main_data.hdf5").write_bytes(content)
    with pytest.raises(ValueError, match="main_data"):
        load_folder(data, "set", cache=False)


def test_deaths_and_tracebacks_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find a reader that raises, dies, loops without end or takes memory."""
    import ctypes

    import fuzz as program

    def spin(words: list[str]) -> int:
        while True:
            pass

    bad = {
        "traceback": lambda words: 1 // 0,
        "SIGSEGV": lambda words: ctypes.string_at(1),
        "more than 1 s of CPU time": spin,
        "exit code 3": lambda words: 3,
        "no line": lambda words: 2,
        "traceback ": lambda words: bytearray(4 << 30),
    }
    monkeypatch.setattr(program, "CPU_SECONDS", 1)
    sample = make_sample("config", tmp_path / "sample")
    for kind, main in bad.items():
        monkeypatch.setattr(program, "main", main)
        assert [outcome.kind for outcome in fuzz("config", sample, range(2), seed=0)] == [kind.strip()] * 2
