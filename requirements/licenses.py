"""Every package that minrl needs at run time, with its version and licence, from the installed metadata.

    python requirements/licenses.py [--check]

Writes LICENSES.md; with `--check` the exit code is 1 if the file says something else. Versions are those of dev.txt and
torch.txt, which `make` installs.
"""

import argparse
import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "LICENSES.md"
# Texts in the field that names the licence, in short.
KNOWN = (("Apache", "Apache-2.0"), ("MIT License", "MIT"), ("BSD", "BSD"), ("Permission is hereby granted", "MIT"))


def needed(name: str = "minrl") -> dict[str, Distribution]:
    """Return the packages that a package needs at run time, by canonical name, however indirectly."""
    found: dict[str, Distribution] = {}
    asked: set[tuple[str, str]] = set()

    def follow(package: str, extra: str) -> None:
        if (package, extra) in asked:
            return
        asked.add((package, extra))
        for line in distribution(package).requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                name = canonicalize_name(requirement.name)
                found[name] = distribution(name)
                for more in ("", *requirement.extras):
                    follow(name, more)

    follow(name, "")
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """Return the licence that a package states: its SPDX expression, classifiers, or text in short."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or [] if "License ::" in line]
    if named := [line for line in classifiers if line != "OSI Approved"]:
        return ", ".join(sorted(set(named)))
    text = str(metadata.get("License") or "").strip()
    short = next((short for words, short in KNOWN if words in text), text.partition("\n")[0])
    assert short, f"{metadata['Name']} states no licence"
    return short


def pinned() -> dict[str, set[str]]:
    """Return the versions of each package that `make` installs, on whatever platform and Python."""
    found: dict[str, set[str]] = {}
    for name in ("dev.txt", "torch.txt"):
        text = (HERE / name).read_text(encoding="utf-8")
        for package, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
            found.setdefault(canonicalize_name(package), set()).add(version)
    return found


def rows() -> dict[str, tuple[str, str]]:
    """Return version and licence of each package, as installed."""
    return {name: (Version(package.version).public, licence(package)) for name, package in needed().items()}


def table(found: dict[str, tuple[str, str]]) -> str:
    """Format the page."""
    lines = [
        "# Licences",
        "",
        "minrl is under the [MIT licence](LICENSE). What it needs at run time (Python 3.11 on Linux, without extras):",
        "",
        "| package | version | licence |",
        "|---|---|---|",
        *(f"| {name} | {version} | {text} |" for name, (version, text) in found.items()),
        "",
        "As the packages' metadata states it. Builds of torch for GPUs bring NVIDIA's libraries, which are under",
        "NVIDIA's licences, and Triton (MIT). Written by `python requirements/licenses.py`.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    text = table(rows())
    if parser.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
