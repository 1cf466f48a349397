"""Training state of optimizers from a file: checked against the parameters before it is taken."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Adam's; "step" is a scalar, the others have their parameter's shape.
_ENTRIES = frozenset({"step", "exp_avg", "exp_avg_sq"})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Restore what `state_dict` of an Adam returned: state and learning rate; other settings, such as betas, stay.

    Fused steps write through bare pointers: a tensor of another shape or type would crash the process.

    Raises:
        ValueError: if the state does not fit the parameters.
    """
    groups, entries = (state.get(name) if isinstance(state, dict) else None for name in ("param_groups", "state"))
    own = optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or not isinstance(entries, dict):
        raise ValueError("it holds no state of an optimizer")
    if [_numbers(group) for group in groups] != [group["params"] for group in own]:
        raise ValueError("its optimizer has other parameters")
    for number, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        if number in entries:
            _check_entry(entries[number], parameter, number)
    for group, saved in zip(own, groups, strict=True):
        rate = float(saved["lr"])
        if not math.isfinite(rate):
            raise ValueError("its learning rate is not finite")
        group["lr"] = torch.tensor(rate, device=group["lr"].device) if isinstance(group["lr"], Tensor) else rate
    count = sum(len(group["params"]) for group in own)
    if not entries.keys() <= set(range(count)):
        raise ValueError("its optimizer has other parameters")
    optimizer.load_state_dict({"state": entries, "param_groups": own})


def first_not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor with a value that is not finite; None if there is none."""
    return next((name for name, tensor in named if not torch.isfinite(tensor).all()), None)


def not_finite(parameters: Iterable[tuple[str, Tensor]], optimizer: torch.optim.Optimizer) -> str | None:
    """Return the name of a parameter, or of its optimizer state, that is not finite; None if all are."""
    named = list(parameters)
    names = {id(parameter): name for name, parameter in named}
    state = (
        (f"{entry} of {names.get(id(parameter), 'a parameter')}", value)
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
        if isinstance(value, Tensor)
    )
    with torch.no_grad():
        return first_not_finite(named) or first_not_finite(state)


def _numbers(group: Any) -> Any:
    return group.get("params") if isinstance(group, dict) else None


def _check_entry(entry: Any, parameter: Tensor, number: int) -> None:
    if not isinstance(entry, dict) or entry.keys() != _ENTRIES:
        raise ValueError(f"the optimizer state of parameter {number} is not Adam's")
    for name, value in entry.items():
        shape, kind = (torch.Size(), torch.float32) if name == "step" else (parameter.shape, parameter.dtype)
        if not isinstance(value, Tensor) or value.shape != shape or value.dtype != kind:
            found = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} of parameter {number} should be {tuple(shape)} of {kind}, it is {found}")
        if value.layout != torch.strided or not torch.isfinite(value).all():
            raise ValueError(f"{name} of parameter {number} holds values that are not finite")
