"""Interface between a comparison and agents: settings, and functions that start and resume a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minrl.data.task import Task


@dataclass(frozen=True)
class Family:
    """Family of tasks, data sets or environments, with the agents that learn from them.

    All functions are a module's own, so that another process finds them by name.
    """

    source: str  # the setting in table [train] that names the task: "data" or "env"
    # What the grid's table [tasks.NAME] may say of the task, and the setting in table [train] that each is.
    keys: Mapping[str, str]
    counter: str  # the column of the log that counts a run's steps
    agents: Mapping[str, type[Any]]  # by name, the dataclass of the settings in table [AGENT]; the first is the default
    settings: type[Any]  # of table [train]
    defaults: Mapping[str, Any]  # of a comparison, in table [train]
    # The task of a table [train], downloaded where that is allowed; a ValueError where it cannot be had here.
    find: Callable[[Any, bool], Task]
    check: Callable[[str, Any, Task], None]  # a ValueError where agent and settings do not fit the task
    start: Callable[[str, Any, Any, Path], int]  # train into a new folder; 0, or 128 + signal where it was stopped
    resume: Callable[[Any, Path], int]  # go on; table [train] says what only a user may, such as a module to import
