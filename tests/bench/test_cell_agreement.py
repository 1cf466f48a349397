"""The table of agreement: each cell against an independent package, or the equations of its paper."""

import importlib.util
import sys
from pathlib import Path

import fresh
import pytest
import torch
from cell_agreement import TRANSCRIBED
from cell_peers.table import PEERS, Peer

from minrl.cells import CELLS

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "benchmarks" / "cell_agreement.py"


def test_every_cell_has_a_peer_or_a_test() -> None:
    written = {row.split("`")[1] for row in TRANSCRIBED}
    assert {peer.cell for peer in PEERS} | written == set(CELLS)
    assert all((ROOT / test).is_file() for test in TRANSCRIBED.values())


@pytest.mark.slow
def test_no_cell_is_left_out(tmp_path: Path) -> None:
    """Require a row for each cell; a missing peer names its command, and a transcription its test."""
    table = tmp_path / "table.md"
    done = fresh.run(PROGRAM, "--table", table)
    assert done.returncode == 0, done.stdout + done.stderr
    text = table.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} == set(CELLS)
    for row in rows:
        cells = [part.strip() for part in row.strip("|").split("|")]
        if cells[1] == "none":
            assert (ROOT / cells[3].rpartition(" ")[2]).is_file()
        elif "not installed" in cells[2]:
            assert f"pip install {cells[1]}" in cells[2]
        else:
            assert float(cells[4]) <= 1e-5
            assert cells[5] == "none" or float(cells[5]) <= 1e-5


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.package == "torch"], ids=lambda peer: peer.cell)
def test_other_weights_disagree(peer: Peer) -> None:
    """Check that the comparison notices one changed weight."""
    pair = peer.pair()
    x = torch.randn(2, 20, pair.cell.width)
    assert torch.allclose(pair.cell.scan(x)[0], pair.run(x), atol=1e-5)
    with torch.no_grad():
        next(pair.peer.parameters())[0, 0] += 0.1
    assert not torch.allclose(pair.cell.scan(x)[0], pair.run(x), atol=1e-5)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mambapy", None)
    peer = next(peer for peer in PEERS if peer.package == "mambapy")
    monkeypatch.delitem(sys.modules, "mambapy.mamba", raising=False)
    with pytest.raises(ModuleNotFoundError):
        peer.pair()
    spec = importlib.util.spec_from_file_location("cell_agreement", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line, largest = module.row(peer)
    assert "not installed (`pip install mambapy`" in line
    assert largest == 0.0
