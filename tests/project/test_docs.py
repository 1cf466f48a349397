"""Pages of docs/: every block is executed, in its order, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minrl.agents.cli.families import families
from minrl.compare.grid.read import read_grid

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# (\S+\.(?:toml|py))\n")


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def write(folder: Path, text: str) -> Path:
    """Write a block under the name in its first line."""
    named = _NAME.match(text)
    assert named, text
    (folder / named[1]).write_text(text, encoding="utf-8")
    return folder / named[1]


def environment(folder: Path) -> dict[str, str]:
    """The shell of someone who has installed minrl."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder), "MINRL_CACHE": str(folder / "cache")}


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_blocks_are_of_kinds_that_are_executed() -> None:
    pages = sorted(DOCS.glob("*.md"))
    assert DOCS / "sweeps.md" in pages
    assert {kind for page in pages for kind, _ in blocks(page)} <= {"toml", "bash", "python"}


def test_the_grid_of_a_sweep(tmp_path: Path) -> None:
    """Its combinations are those that the page names."""
    (text,) = [text for kind, text in blocks(DOCS / "sweeps.md") if kind == "toml"]
    plan = read_grid(write(tmp_path, text), families())
    assert len(plan.runs) == 8
    assert plan.methods[0].name == "learning_rate=0.001+width=16"
    assert plan.methods[0].name in (DOCS / "sweeps.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_every_block_runs(page: Path, tmp_path: Path) -> None:
    printed = ""
    for kind, text in blocks(page):
        if kind == "bash":
            printed += run(["bash", "-e", "-c", text], tmp_path)
            continue
        file = write(tmp_path, text)
        if kind == "python":
            printed += run([sys.executable, file.name], tmp_path)
    if page.stem == "sweeps":
        assert "8 to do" in printed
        assert (tmp_path / "runs/sweep/report/report.md").is_file()
        found = json.loads(printed.splitlines()[-1])
        scores = []
        for number in range(3):
            summary = json.loads((tmp_path / f"runs/search/{number}/summary.json").read_text())
            scores.append(summary["evaluation"]["normalized_score"])
        assert found["score"] == max(scores)
