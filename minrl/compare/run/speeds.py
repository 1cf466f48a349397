"""Costs of runs to come: CPU seconds of a step, measured on this machine once for settings of equal cost."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minrl.compare.grid.family import Family, Speed
from minrl.compare.grid.plan import PlannedRun
from minrl.compare.grid.settings import TRAIN
from minrl.compare.run.execute import build_settings
from minrl.data.task import Task
from minrl.runs.side_files import read_json, read_summary, write_json
from minrl.system.messages import one_line

SPEEDS = "speeds.json"
_TRAINING = ("batch_size", "length", "carry", "average", "precision", "device", "threads", "tune_cpu")
_AIMS = ("target_return",)  # options of agents that change nothing about their cost
_ROWS = 10  # environments of an evaluation


class Speeds:
    """Speeds of a comparison's runs.

    Args:
        families: of tasks.
        out: the comparison's folder; what was measured for it before is kept, so that a budget of CPU seconds is the
            same number of steps when runs are resumed.
    """

    def __init__(self, families: Mapping[str, Family], out: Path) -> None:
        self.families, self.out = families, out
        self._kept: dict[str, Speed] = {}
        self._tasks: dict[str, Task | None] = {}
        self._measured: dict[str, Speed | None] = {}
        if (out / SPEEDS).is_file():
            self._kept = _read(out / SPEEDS)

    def of(self, run: PlannedRun) -> Speed | None:
        """Return the speed of a run; None if its task is not on this machine, or only an environment could tell."""
        key = f"{run.task}/{run.method}"
        if key in self._kept:
            return self._kept[key]
        family = self.families[run.family]
        options, settings = build_settings(run, family)
        task = self._task(run, family, settings)
        if task is None:
            return None
        like = _cost_like(run, task)
        if like not in self._measured:
            self._measured[like] = family.measure(run.agent, options, settings, task)
        found = self._measured[like]
        if found is not None:
            self._kept[key] = found
        return found

    def seconds_of_step(self, run: PlannedRun) -> float | None:
        """Return the CPU seconds of a run's gradient step, for a budget.

        Raises:
            ValueError: for a task that is an environment.
        """
        if self.families[run.family].source == "env":
            raise ValueError(f"a budget of CPU seconds is for data sets; {run.task} is an environment: use data_steps")
        found = self.of(run)
        return None if found is None else found.step

    def save(self) -> None:
        """Write the speeds into the comparison's folder."""
        write_json(self.out / SPEEDS, {key: vars(speed) for key, speed in self._kept.items()})

    def hours(self, run: PlannedRun) -> float | None:
        """Estimate the CPU hours of a run, evaluations included: by finished runs of its settings, or measured."""
        train = run.settings[TRAIN]
        summary = read_summary(self.out / run.folder) if (self.out / run.folder).is_dir() else None
        if summary is not None and summary.get("training_cpu_seconds"):
            return float(summary["training_cpu_seconds"]) / 3600
        speed = self.of(run)
        if speed is None:
            return None
        task = self._task(run, self.families[run.family], build_settings(run, self.families[run.family])[1])
        longest = 0 if task is None else task.longest_episode
        plays = -(-run.steps // train["evaluate_every"])
        if "target_return" in run.settings[run.agent] and train.get("target_sweep") == "last":
            plays += 5
        batches = -(-train["evaluate_episodes"] // _ROWS)
        return float(speed.step * run.steps + speed.acting * longest * batches * plays) / 3600

    def _task(self, run: PlannedRun, family: Family, settings: Any) -> Task | None:
        named = repr([getattr(settings, name) for name in family.keys.values()])
        if named not in self._tasks:
            try:
                self._tasks[named] = family.look(settings)
            except ValueError:
                self._tasks[named] = None
        return self._tasks[named]


def _cost_like(run: PlannedRun, task: Task) -> str:
    """Return text that is equal for runs of equal cost."""
    options = {name: value for name, value in run.settings[run.agent].items() if name not in _AIMS}
    train = {name: run.settings[TRAIN].get(name) for name in _TRAINING}
    sizes = task.observation_size, task.action_size, task.longest_episode
    return json.dumps([run.agent, options, train, sizes], sort_keys=True, default=str)


def _read(path: Path) -> dict[str, Speed]:
    """Read kept speeds; raise ValueError for a file that holds none, or was damaged."""
    try:
        values = read_json(path, _check)
    except ValueError as error:
        raise ValueError(f"{one_line(error)}: remove it, the speeds are measured again") from error
    return {key: Speed(float(speed["step"]), float(speed["acting"])) for key, speed in values.items()}


def _check(values: Any) -> None:
    for speed in values.values():
        if not all(0 <= float(speed[name]) < math.inf for name in ("step", "acting")):
            raise ValueError("it holds no speeds of runs")
