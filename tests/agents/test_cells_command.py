"""`minrl cells`, and cells of other packages, which an installed distribution adds by an entry point."""

import inspect
import json
import os
from pathlib import Path

import fresh
import pytest

from minrl.agents.__main__ import main
from minrl.cells import CELLS

OUTSIDE = '''"""Half of what it sees."""
from minrl.backbone import Block
from minrl.cells import CELLS, Cell


class Outside(CELLS["mingru"]):
    """A minGRU."""

    def __init__(self, width, *, share=0.5):
        super().__init__(width, hold=(share, 2.0))
'''
ENTRIES = """[minrl.cells]
outside = outside_cells:Outside
absent = outside_cells:Absent
number = math:pi
"""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process in which a distribution with cells is installed."""
    (tmp_path / "outside_cells.py").write_text(OUTSIDE, encoding="utf-8")
    folder = tmp_path / "outside_cells-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-cells\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(ENTRIES, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_every_cell_is_listed_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cells"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert main(["cells", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(CELLS)
    for (name, row), line, options in zip(rows.items(), text[::2], text[1::2], strict=True):
        assert line.split() == [name, *row["summary"].split()]
        assert len(row["summary"]) > 20
        parameters = inspect.signature(CELLS[name].__init__).parameters.values()
        known = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        assert [word.partition("=")[0] for word in options.split()] == list(known)
        assert row["options"] == json.loads(json.dumps(known))
    assert "signed=false" in text[1]


def test_one_cell_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cells", "mingru"]) == 0
    assert "signed: decays in (-1, 1)" in capsys.readouterr().out
    assert main(["cells", "mingur"]) == 2
    assert capsys.readouterr().err == 'minrl: unknown cell "mingur"; did you mean "mingru"?\n'


# The package is imported before minrl loads it; then its cells are listed and used.
PROGRAM = """
import outside_cells, torch
from minrl.agents.__main__ import main
from minrl.backbone import Backbone
print(Backbone(8, 1, "outside,mingru", share=0.7).scan(torch.zeros(1, 2, 8))[0].shape)
for words in ([], ["absent"], ["number"]):
    print(main(["cells", *words]))
"""


def test_an_installed_package_adds_its_cells(installed: dict[str, str]) -> None:
    """List and use them like those that ship; a broken one gives one line and leaves the others usable."""
    done = fresh.run(PROGRAM, env=installed, check=True)
    used, *lines = done.stdout.splitlines()
    assert used == "torch.Size([1, 2, 8])"
    assert "outside      Half of what it sees." in lines
    assert "share=0.5" in done.stdout
    assert 'cell "absent" (outside_cells:Absent) cannot be imported' in done.stdout
    assert [line for line in lines if line.isdigit()] == ["0", "2", "2"]
    absent, number = done.stderr.splitlines()
    assert absent.startswith('minrl: cell "absent" (outside_cells:Absent) cannot be imported')
    assert number == 'minrl: cell "number" (math:pi) is no subclass of minrl.cells.Cell'
