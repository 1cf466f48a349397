"""Pinned versions: within the bounds in pyproject.toml, each with hashes."""

import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = [ROOT / "requirements" / name for name in ("torch.txt", "torch_cpu.txt", "cuda.txt", "dev.txt")]
BLOCK = re.compile(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)(.*(?:\n .*)*)", re.MULTILINE)


def test_every_pin_has_hashes() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        blocks = BLOCK.findall(text)
        assert len(blocks) == len(re.findall(r"^[^\s#]", text, re.MULTILINE)) > 0, file
        assert [name for name, _, rest in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", rest)] == []


def test_the_pins_fit_the_bounds() -> None:
    """Find each direct dependency of minrl and of its extra dev among the pins, within its bounds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines, seen = [*project["dependencies"], *extras["dev"]], {"dev"}
    pins: dict[str, set[str]] = {}
    for file in FILES:
        for name, version, _ in BLOCK.findall(file.read_text(encoding="utf-8")):
            pins.setdefault(canonicalize_name(name), set()).add(version)
    while lines:
        requirement = Requirement(lines.pop())
        if requirement.name == "minrl":
            lines += [line for extra in requirement.extras - seen for line in extras[extra]]
            seen |= requirement.extras
            continue
        versions = pins.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement}: run python requirements/lock.py"
        assert {version for version in versions if version not in requirement.specifier} == set(), requirement
