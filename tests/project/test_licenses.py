"""LICENSES.md lists what is installed."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_page_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with the installed packages, wherever their versions are those that `make` installs."""
    monkeypatch.syspath_prepend(str(ROOT / "requirements"))
    import licenses

    page = (ROOT / "LICENSES.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", page, re.MULTILINE)
    stated = {name: (version, text) for name, version, text in lines if name != "package"}
    found, pinned = licenses.rows(), licenses.pinned()
    if sys.version_info[:2] == (3, 11):
        assert set(stated) == set(found), "run python requirements/licenses.py"
        own = {name: row for name, row in found.items() if row[0] in pinned[name]}
        assert {name: stated[name] for name in own} == own, "run python requirements/licenses.py"
    assert {name for name, (version, _) in stated.items() if version not in pinned[name]} == set()
    assert {"torch", "numpy", "gymnasium", "stable-baselines3", "h5py", "numba"} < set(stated)
