"""Whether what a compiled call was planned for is still as it was, and whether such a call may run at all."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_is_tracing: Any = torch.jit.is_tracing  # type: ignore[attr-defined]
# Torch has no public names for these: whether functions are being transformed, dispatch is being watched, or hooks
# are on all modules.
_is_transforming: Any = getattr(torch._C, "_are_functorch_transforms_active", bool)
_watchers: Any = getattr(torch._C, "_len_torch_dispatch_stack", int)
_hooked: Any = getattr(nn.modules.module, "_has_any_global_hook", bool)


@dataclass(frozen=True)
class Watch:
    """The members of modules, where their numbers lie, and their hooks."""

    # What each name in each owner stood for.
    owners: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    members: tuple[Any, ...]
    tensors: tuple[Tensor, ...]
    pointers: tuple[int, ...]
    hooks: tuple[Any, ...]
    dropouts: tuple[nn.Dropout, ...]

    @classmethod
    def over(
        cls, module: nn.Module, tensors: Iterable[Tensor], attributes: Iterable[tuple[nn.Module, str]] = ()
    ) -> "Watch":
        """All of `module`; `tensors` are its parameters and buffers in use, `attributes` plain ones that count."""
        modules = list(module.modules())
        members = [
            (owner, name, member)
            for part in modules
            for owner in (part._modules, part._parameters, part._buffers)
            for name, member in owner.items()
        ]
        members += [(vars(owner), name, vars(owner).get(name)) for owner, name in attributes]
        owners, names, values = zip(*members, strict=True)
        tensors = tuple(tensors)
        return cls(
            owners=owners,
            names=names,
            members=values,
            tensors=tensors,
            pointers=tuple(map(Tensor.data_ptr, tensors)),
            hooks=tuple(hooks for part in modules for hooks in (part._forward_hooks, part._forward_pre_hooks)),
            dropouts=tuple(part for part in modules if isinstance(part, nn.Dropout)),
        )

    def holds(self) -> bool:
        """Whether nothing has been replaced, moved or hooked since."""
        return (
            all(map(operator.is_, map(dict.get, self.owners, self.names), self.members))
            and tuple(map(Tensor.data_ptr, self.tensors)) == self.pointers
            and not any(self.hooks)
        )

    def drops(self) -> bool:
        """Whether dropout is active."""
        for dropout in self.dropouts:  # noqa: SIM110, a loop takes half the time of any()
            if dropout.training and dropout.p:
                return True
        return False


def runs_alone() -> bool:
    """Whether nobody compiles, traces, transforms or watches what runs, so that compiled kernels may take it."""
    if torch.compiler.is_compiling() or _is_tracing() or torch.is_autocast_enabled("cpu"):
        return False
    return not (_is_transforming() or _watchers() or _hooked())


def may_run() -> bool:
    """Whether no gradient is asked for and nobody but the caller wants to see torch's own operations."""
    return runs_alone() and not torch.is_grad_enabled()


def plain(x: Tensor, dimensions: int) -> bool:
    """Whether `x` is an ordinary float32 tensor on the CPU."""
    return type(x) is Tensor and x.dtype is torch.float32 and x.is_cpu and x.dim() == dimensions


def readable(tensors: Iterable[Tensor]) -> bool:
    """Whether the kernels can read parameters where they lie."""
    return all(t.dtype is torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
