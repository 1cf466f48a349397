"""Equal budgets for all runs of a comparison: steps of data, or CPU seconds of training on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from minrl.compare.grid.values import check_keys

BUDGET = "budget"
DATA, CPU, EVALUATIONS = "data_steps", "cpu_seconds", "evaluations"
_DEFAULT_EVALUATIONS = 10


@dataclass(frozen=True)
class Budget:
    """Budget of every run, instead of a number of gradient steps; learning-rate schedules end with it.

    Exactly one of the first two is given.
    """

    data_steps: int | None = None  # steps of trajectories that training sees, each as often as it is drawn
    cpu_seconds: float | None = None  # of training, without evaluations
    evaluations: int = _DEFAULT_EVALUATIONS  # evenly over a run, the last one after its last step

    def __str__(self) -> str:
        if self.data_steps is not None:
            return f"{self.data_steps:,} steps of data a run"
        return f"{self.cpu_seconds:g} CPU seconds of training a run"

    def with_evaluations(self, count: int) -> "Budget":
        """Return the same budget with another number of evaluations."""
        return replace(self, evaluations=count)

    def table(self) -> dict[str, Any]:
        """Return the budget as a table of a grid."""
        return {name: value for name, value in vars(self).items() if value is not None}


def read_budget(table: Mapping[str, Any], where: str) -> Budget | None:
    """Read table [budget] of a grid; None if it is empty.

    Raises:
        ValueError: for an unknown key, a value that is not positive, or both budgets at once.
    """
    if not table:
        return None
    check_keys(dict(table), [DATA, CPU, EVALUATIONS], where)
    for name, value in table.items():
        whole = name != CPU
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < 1e15:
            raise ValueError(f"{where}: {name} must be a positive {'whole ' if whole else ''}number, got {value!r}")
    if (DATA in table) == (CPU in table):
        raise ValueError(f"{where} needs {DATA} or {CPU}, one of them")
    return Budget(**table)


def parsed(text: str) -> Budget:
    """Read a budget from the command line, such as `data_steps=6e6` or `cpu_seconds=600`; keep the default evaluations.

    Raises:
        ValueError: if it is none.
    """
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"--budget is {DATA}=N or {CPU}=N, got {text!r}") from None
    found = read_budget({name: int(value) if name == DATA and value.is_integer() else value}, "--budget")
    assert found is not None
    return found
