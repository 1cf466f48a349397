"""Adam's steps on a CPU without the walk through all parameters and their state that torch makes at each of them.

For a network of some dozens of small tensors that walk takes as long as the update itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw

_UPDATES: dict[type[Any], Callable[..., None]] = {torch.optim.Adam: adam, torch.optim.AdamW: adamw}
_OTHER = "amsgrad", "maximize", "capturable", "differentiable"


def quicken(optimizer: torch.optim.Optimizer) -> None:
    """Let a fused Adam or AdamW do the same steps, to the bit, in less time; other optimizers stay as they are.

    Where a step is more than that (a closure, hooks, a parameter without a gradient) torch's own runs.
    """
    if type(optimizer) not in _UPDATES:
        return
    own_step, own_zero, held = optimizer.step, optimizer.zero_grad, _Held()

    def step(self: Any, closure: Callable[[], float] | None = None) -> float | None:
        gradients = None if closure is not None or _is_watched(self) else held.gradients(self)
        if gradients is None:
            return own_step() if closure is None else own_step(closure)
        with torch.no_grad():
            for group, state, given in zip(self.param_groups, held.lists, gradients, strict=True):
                _update(_UPDATES[type(self)], group, state, given)
        return None

    def zero_grad(self: Any, set_to_none: bool = True) -> None:
        if not set_to_none:
            own_zero(set_to_none=False)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    # As torch's learning rate schedulers do; a copy of the optimizer has its own methods again.
    optimizer.step, optimizer.zero_grad = MethodType(step, optimizer), MethodType(zero_grad, optimizer)  # type: ignore[method-assign]


@contextmanager
def listed_parameters(module: nn.Module) -> Iterator[None]:
    """Within it `module.parameters()` gives what it gave at first, without a walk through all modules."""
    held, own = list(module.parameters()), module.parameters

    def parameters(recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter(held) if recurse else own(recurse=False)

    object.__setattr__(module, "parameters", parameters)
    try:
        yield
    finally:
        object.__delattr__(module, "parameters")


class _Held:
    """Parameters, averages and step counts of each group, as long as the optimizer has the same."""

    def __init__(self) -> None:
        self.lists: list[tuple[list[Tensor], ...]] = []
        self.state: Any = None
        self.groups: Any = None

    def gradients(self, optimizer: torch.optim.Optimizer) -> list[list[Tensor]] | None:
        """Those of each group; None where a step is not a plain one."""
        groups = optimizer.param_groups
        if self.state is not optimizer.state or self.groups is not groups or len(self.lists) != len(groups):
            self.state, self.groups, self.lists = optimizer.state, groups, _lists(optimizer)
        if not self.lists or any(isinstance(group["lr"], Tensor) for group in groups):
            return None
        gradients = [[parameter.grad for parameter in parameters] for parameters, *_ in self.lists]
        return None if any(g is None for given in gradients for g in given) else gradients  # type: ignore[return-value]


def _lists(optimizer: torch.optim.Optimizer) -> list[tuple[list[Tensor], ...]]:
    """Empty before the first step, and where torch must do the work."""
    lists, state = [], optimizer.state
    for group in optimizer.param_groups:
        parameters = group["params"]
        if not group["fused"] or any(group[name] for name in _OTHER):
            return []
        if not all(p.is_cpu and not p.is_complex() and "step" in state.get(p, {}) for p in parameters):
            return []
        names = "exp_avg", "exp_avg_sq", "step"
        lists.append((parameters, *([state[p][name] for p in parameters] for name in names)))
    return lists


def _is_watched(optimizer: Any) -> bool:
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(hooks) or getattr(optimizer, "grad_scale", None) is not None


def _update(
    run: Callable[..., None], group: dict[str, Any], state: tuple[list[Tensor], ...], gradients: list[Tensor]
) -> None:
    parameters, averages, squares, steps = state
    beta1, beta2 = group["betas"]
    if parameters:
        run(
            parameters, gradients, averages, squares, [], steps, foreach=False, fused=True, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=False,
        )  # fmt: skip
