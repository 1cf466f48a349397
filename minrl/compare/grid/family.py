"""Interface between a comparison and agents: settings, and functions that start and resume a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minrl.data.task import Task


@dataclass(frozen=True)
class Speed:
    """CPU seconds that a run takes on this machine."""

    step: float  # one gradient step
    acting: float  # one step of all environments of an evaluation, without the environments' own time


@dataclass(frozen=True)
class Family:
    """Family of tasks, data sets or environments, with the agents that learn from them.

    All functions are module-level, so that other processes can unpickle them.
    """

    source: str  # the setting in table [train] that names the task: "data" or "env"
    # Keys of the grid's table [tasks.NAME], and the setting in table [train] that each sets.
    keys: Mapping[str, str]
    counter: str  # the column of the log that counts a run's steps
    agents: Mapping[str, type[Any]]  # by name, the dataclass of the settings in table [AGENT]; the first is the default
    settings: Mapping[str, type[Any]]  # by agent, the dataclass of table [train]
    defaults: Mapping[str, Any]  # of a comparison, in table [train]
    allow: Callable[[Any], None]  # ValueError if the environment that table [train] names is not trusted
    # Find the task of a table [train], downloaded if need be; ValueError if it is unavailable.
    find: Callable[[Any], Task]
    # The same without a download and without making an environment; None where only the environment has the task.
    look: Callable[[Any], Task | None]
    check: Callable[[str, Any, Task], None]  # ValueError if agent and settings do not fit the task
    data_of_step: Callable[[Any, Any], int]  # steps of trajectories that one step of options and settings sees
    # CPU seconds of agent, options and settings, by a few steps of a run that is thrown away; None where only an
    # environment could tell.
    measure: Callable[[str, Any, Any, Task], Speed | None]
    start: Callable[[str, Any, Any, Path], int]  # train into a new folder; 0, or 128 + signal if stopped
    resume: Callable[[Any, Path], int]  # table [train] may name modules to import, a checkpoint may not
