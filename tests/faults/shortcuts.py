"""Work that is left out of a process that reads mutants, or done once: none of it depends on a mutant's content.

Without it a mutant of a run takes 50 to 200 ms, with it twice to five times as long.
"""

import functools
from collections.abc import Sequence
from typing import Any

from minrl.agents import __main__ as program
from minrl.cells import table
from minrl.compare.report import protocol
from minrl.data import registration
from minrl.runs import archive, checkpoint, figures, learning_curve, summary
from minrl.training import target_sweep


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
    # The same bytes hold the same storages: a run's checkpoint is read four times.
    archive._storages = functools.lru_cache(16)(archive._storages)
    program._parser = _once(program._parser)


def _once(make: Any) -> Any:
    """Return a function that makes the parser of a command once; that of an agent changes as it parses."""
    made = functools.cache(make)

    def parser(words: Sequence[str]) -> Any:
        is_agent = list(words[:1]) == ["train"] and not words[1].startswith("--")
        return make(words) if is_agent else made(tuple(words))

    parser.once = True  # type: ignore[attr-defined]
    return parser
