"""Endings of mutants, counted by reader, and the table of them."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

# A run that was loaded may then fail, as one whose learning rate is too high: one line, exit code 1.
LOADS, FAILS, REFUSED = "loads", "loads, and its training fails", "refused"
GOOD = (LOADS, FAILS, REFUSED)


@dataclass(frozen=True)
class Outcome:
    """Ending of one mutant."""

    number: int
    kind: str  # one of `GOOD`, or what went wrong
    done: str = ""  # the mutation
    said: str = ""


@dataclass
class Tally:
    """Results of a reader's first mutants."""

    mutants: int = 0
    loads: int = 0
    refused: int = 0
    faults: dict[str, str] = field(default_factory=dict)  # by number
    cpu_seconds: float = 0.0
    fails: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.mutants += 1
        self.loads += outcome.kind == LOADS
        self.fails += outcome.kind == FAILS
        self.refused += outcome.kind == REFUSED
        if outcome.kind not in GOOD:
            self.faults[str(outcome.number)] = outcome.kind


def table(tallies: dict[str, Tally]) -> str:
    """Format the results as Markdown."""
    lines = [
        "| reader | mutants | load | load, training fails | one line, exit code 2 | other | CPU, ms each |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, tally in tallies.items():
        other = ", ".join(f"{count} {kind}" for kind, count in Counter(tally.faults.values()).items()) or "0"
        each = 1000 * tally.cpu_seconds / max(1, tally.mutants)
        counts = " | ".join(f"{count:,}" for count in (tally.mutants, tally.loads, tally.fails, tally.refused))
        lines.append(f"| {name} | {counts} | {other} | {each:.0f} |")
    return "\n".join(lines)


def load(path: Path) -> dict[str, Tally]:
    """Read the results of earlier commands."""
    if not path.exists():
        return {}
    return {name: Tally(**values) for name, values in json.loads(path.read_text(encoding="utf-8")).items()}


def save(path: Path, tallies: dict[str, Tally], order: Iterable[str]) -> None:
    """Write the results in this order of readers, and their table beside them."""
    ordered = {name: tallies[name] for name in order if name in tallies}
    results = json.dumps({name: asdict(tally) for name, tally in ordered.items()}, indent=1)
    for file, text in ((path, results), (path.with_suffix(".md"), table(ordered))):
        draft = file.with_suffix(".new")
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(file)
