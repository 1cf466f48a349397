"""Structure of an experiment: parts that are run and stored one by one, and a report on the finished ones."""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

Size = Literal["quick", "small", "full"]
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """Experiment settings that the user chose."""

    size: Size = "small"
    cells: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    threads: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    options: Mapping[str, Any] = field(default_factory=dict)  # the experiment's own flags by name
    prefix: Path | None = None  # of the files of unfinished parts; None for no files

    def settings(self, config: Any = None, **own: Any) -> dict[str, Any]:
        """Return the settings of a part: size, threads and device, the fields of the dataclass `config`, and `own`."""
        common = {"size": self.size, "threads": self.threads, "device": str(self.device)}
        return {**common, **({} if config is None else asdict(config)), **own}

    def unfinished(self, settings: Mapping[str, Any]) -> Path | None:
        """Return the file in which `minrl.reproduce.training.train` saves an unfinished part of these settings."""
        if self.prefix is None:
            return None
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return self.prefix.with_name(f"{self.prefix.name}.{digest}.unfinished.pt")


@dataclass(frozen=True)
class Part:
    """Piece of an experiment whose result is stored.

    Args:
        name: shown while it runs, such as "mingru, 3 layers, seed 0".
        settings: all that its result depends on, in JSON types; a part with equal settings is not run twice.
        run: returns its result, in JSON types.
    """

    name: str
    settings: Mapping[str, Any]
    run: Callable[[], Numbers]


@dataclass(frozen=True)
class Done:
    """Part with its numbers."""

    name: str
    settings: Mapping[str, Any]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """Axes of a plot: curves of (x, y) by label, and horizontal lines for the paper's results."""

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    lines: Mapping[str, float] = field(default_factory=dict)
    dashed: frozenset[str] = frozenset()  # secondary curves, coloured in the order of the others
    logarithmic: Literal["", "x", "xy"] = ""
    limits: tuple[float | None, float | None] = (None, None)  # of y


@dataclass(frozen=True)
class Report:
    """Table and plots of the finished parts."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]  # paragraphs below the table
    panels: Sequence[Panel] = ()


def _no_flags(parser: argparse.ArgumentParser) -> None:
    """Add no flags."""


@dataclass(frozen=True)
class Experiment:
    """Experiment of the paper.

    Args:
        title: above the table, and in the list of experiments.
        sizes: description and duration of each size, for the list.
        parts: of a request, in execution order.
        report: of at least one finished part; others may be missing.
        cells: compared by default.
        known_cells: choices of `--cells`; empty for no choice.
        add_flags: adds the experiment's own flags, whose values are `Request.options`.

    `parts` raises ValueError for invalid flags.
    """

    title: str
    sizes: Mapping[Size, str]
    parts: Callable[[Request], Sequence[Part]]
    report: Callable[[Sequence[Done]], Report]
    cells: tuple[str, ...] = ()
    known_cells: tuple[str, ...] = ()
    add_flags: Callable[[argparse.ArgumentParser], None] = _no_flags
