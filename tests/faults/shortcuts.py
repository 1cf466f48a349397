"""Work that is left out of a process that reads mutants, or done once: none of it depends on a mutant's content.

With it a mutant of a run takes 35 to 60 ms, without it 180 to 340.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from minrl.agents import __main__ as program
from minrl.cells import table
from minrl.compare.report import protocol
from minrl.data import registration
from minrl.runs import archive, checkpoint, figures, learning_curve, summary
from minrl.training import target_sweep

_REMEMBERED = 8  # files


def take() -> None:
    """Take the shortcuts in this process."""
    if hasattr(program._parser, "once"):
        return
    modules: Any = (figures, learning_curve, target_sweep)
    for module in modules:  # plots, which no reader reads
        module.find_spec = lambda name, package=None: None
    modules = (checkpoint, table, registration)
    entry_points = functools.cache(checkpoint.entry_points)  # of the installed packages
    for module in modules:
        module.entry_points = entry_points
    protocol.version = functools.cache(protocol.version)
    # An action is still timed, after all that is read.
    summary.seconds_per_action = functools.partial(summary.seconds_per_action, calls=1)
    # The same bytes are sound again and hold the same: a run's checkpoint is read four times.
    remembered: Any = _remembered(archive.check_archive)
    checkpoint.check_archive = archive.check_archive = remembered
    loaded: Any = _remembered(torch.load)
    torch.load = loaded
    program._parser = _once(program._parser)


def _once(make: Any) -> Any:
    """Return a function that makes the parser of a command once; that of an agent changes as it parses."""
    made = functools.cache(make)

    def parser(words: Sequence[str]) -> Any:
        is_agent = list(words[:1]) == ["train"] and not words[1].startswith("--")
        return make(words) if is_agent else made(tuple(words))

    parser.once = True  # type: ignore[attr-defined]
    return parser


def _remembered(read: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that reads a file once if it holds the same bytes as one of the last files without a fault."""
    found: dict[tuple[bytes, str], Any] = {}

    def reader(file: Any, *arguments: Any, **options: Any) -> Any:
        if arguments or not isinstance(file, Path) or not file.is_file():
            return read(file, *arguments, **options)
        key = file.read_bytes(), str(options)
        if key not in found:
            result = read(file, **options)
            while len(found) >= _REMEMBERED:
                found.pop(next(iter(found)))
            found[key] = result
        return copy.deepcopy(found[key])

    return reader
