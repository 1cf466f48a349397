"""What an experiment is: parts that are run one after another and kept, and a report on those that are done."""

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
    """What the user asked for."""

    size: Size = "small"
    cells: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    threads: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    options: Mapping[str, Any] = field(default_factory=dict)  # the experiment's own flags by name
    prefix: Path | None = None  # of the files of parts that are under way; None keeps none

    def settings(self, config: Any = None, **own: Any) -> dict[str, Any]:
        """Settings of a part: size, threads and device, the fields of the dataclass `config`, and `own`."""
        common = {"size": self.size, "threads": self.threads, "device": str(self.device)}
        return {**common, **({} if config is None else asdict(config)), **own}

    def unfinished(self, settings: Mapping[str, Any]) -> Path | None:
        """Where `minrl.reproduce.training.train` keeps what it has of a part of these settings."""
        if self.prefix is None:
            return None
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return self.prefix.with_name(f"{self.prefix.name}.{digest}.unfinished.pt")


@dataclass(frozen=True)
class Part:
    """A piece of an experiment that is kept when it is done.

    Args:
        name: shown while it runs, such as "mingru, 3 layers, seed 0".
        settings: all that its numbers depend on, as JSON can hold it; a part with equal settings is not run twice.
        run: does it and returns its numbers, as JSON can hold them.
    """

    name: str
    settings: Mapping[str, Any]
    run: Callable[[], Numbers]


@dataclass(frozen=True)
class Done:
    """A part with its numbers."""

    name: str
    settings: Mapping[str, Any]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """One plot: curves of (x, y) by their labels, and horizontal lines, which are for the paper's figures."""

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    lines: Mapping[str, float] = field(default_factory=dict)
    dashed: frozenset[str] = frozenset()  # curves that accompany others, of which they share the colour in their order
    logarithmic: Literal["", "x", "xy"] = ""
    limits: tuple[float | None, float | None] = (None, None)  # of y


@dataclass(frozen=True)
class Report:
    """The table and the plots of what is done."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]  # paragraphs below the table
    panels: Sequence[Panel] = ()


def _no_flags(parser: argparse.ArgumentParser) -> None:
    """An experiment without flags of its own."""


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper.

    Args:
        title: above the table, and in the list of experiments.
        sizes: what each size is and how long it takes, for the list.
        parts: those that a request asks for, in the order in which they run.
        report: of at least one part that is done; the others may be missing.
        cells: compared by default.
        known_cells: that `--cells` takes; none where there is nothing to choose.
        add_flags: the experiment's own flags; their values are `Request.options`.

    `parts` raises ValueError for what a user has asked wrongly.
    """

    title: str
    sizes: Mapping[Size, str]
    parts: Callable[[Request], Sequence[Part]]
    report: Callable[[Sequence[Done]], Report]
    cells: tuple[str, ...] = ()
    known_cells: tuple[str, ...] = ()
    add_flags: Callable[[argparse.ArgumentParser], None] = _no_flags
