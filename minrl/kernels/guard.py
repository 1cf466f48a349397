"""The guards of compiled calls: is what a call was planned for still as it was, and may such a call run here?"""

import operator
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_is_tracing: Any = torch.jit.is_tracing  # type: ignore[attr-defined]
# Torch has no public names for these: whether functions are being transformed, dispatch is being watched, hooks are on
# all modules, or a gradient stands for many (`is_grads_batched`).
_is_transforming: Any = getattr(torch._C, "_are_functorch_transforms_active", bool)
_watchers: Any = getattr(torch._C, "_len_torch_dispatch_stack", int)
_hooked: Any = getattr(nn.modules.module, "_has_any_global_hook", bool)
_is_batched: Any = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda x: False)


# The plain attributes of torch's modules that their functions read. Of other modules all public ones count but whole
# numbers: those are sizes, which change with the weights.
_READ: dict[type[nn.Module], tuple[str, ...]] = {
    nn.LayerNorm: ("eps",),
    nn.GELU: ("approximate",),
    nn.Embedding: ("max_norm",),
}


@dataclass(frozen=True)
class Watch:
    """The parts of a module that a plan was made from: submodules, parameters, plain attributes, memory and hooks."""

    # The submodules of each module, as they are and as they were; modules are equal where they are the same.
    children: list[dict[str, Any]]
    children_then: list[dict[str, Any]]
    # What each name in each owner stood for.
    owners: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    members: tuple[Any, ...]
    # The attributes of each module, and how many there were: a `forward` of its own would be one more.
    spaces: tuple[dict[str, Any], ...]
    counts: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    pointers: tuple[int, ...]
    matrices: tuple[Tensor, ...]  # those that can be turned or cut where they lie
    lengths: tuple[int, ...]  # how many numbers are in each
    hooks: tuple[Any, ...]
    dropouts: tuple[nn.Dropout, ...]

    @classmethod
    def over(
        cls,
        module: nn.Module,
        tensors: Iterable[Tensor],
        attributes: Iterable[tuple[nn.Module, str]] = (),
        *,
        backward: bool = False,
    ) -> "Watch | None":
        """Watch all of `module`; None where something in it is hooked or has a method of its own.

        Args:
            module: what the plan is for.
            tensors: its parameters and buffers that are read where they lie, all contiguous.
            attributes: further plain ones that count, beside those that are public.
            backward: whether gradients are formed too, so that hooks on them count.
        """
        modules = list(module.modules())
        hooks = tuple(
            hooks
            for part in modules
            for hooks in (
                (part._forward_hooks, part._forward_pre_hooks)
                + ((part._backward_hooks, part._backward_pre_hooks) if backward else ())
            )
        )
        spaces, tensors = tuple(vars(part) for part in modules), tuple(tensors)
        matrices = tuple(tensor for tensor in tensors if tensor.dim() > 1)
        if any(hooks) or any(name in space for space in spaces for name in ("forward", "scan", "step")):
            return None
        if not all(map(Tensor.is_contiguous, tensors)):
            return None
        members = [
            (owner, name, member)
            for part in modules
            for owner in (part._parameters, part._buffers)
            for name, member in owner.items()
        ]
        plain = [(part, name) for part in modules for name in _plain_attributes(part)]
        members += [(vars(owner), name, vars(owner).get(name)) for owner, name in (*plain, *attributes)]
        owners, names, values = zip(*members, strict=True)
        children = [part._modules for part in modules if part._modules]
        return cls(
            children=children,
            children_then=[dict(each) for each in children],
            owners=owners,
            names=names,
            members=values,
            spaces=spaces,
            counts=tuple(map(len, spaces)),
            tensors=tensors,
            pointers=tuple(map(Tensor.data_ptr, tensors)),
            matrices=matrices,
            lengths=tuple(map(Tensor.numel, matrices)),
            hooks=hooks,
            dropouts=tuple(part for part in modules if isinstance(part, nn.Dropout)),
        )

    def holds(self) -> bool:
        """Return True if nothing has been replaced, changed, moved, turned, cut or hooked since."""
        return (
            self.children == self.children_then
            and all(map(operator.is_, map(dict.get, self.owners, self.names), self.members))
            and tuple(map(len, self.spaces)) == self.counts
            and tuple(map(Tensor.data_ptr, self.tensors)) == self.pointers
            and tuple(map(Tensor.numel, self.matrices)) == self.lengths
            and all(map(Tensor.is_contiguous, self.matrices))
            and not any(self.hooks)
        )

    def drops(self) -> bool:
        """Return True if dropout is active."""
        for dropout in self.dropouts:  # noqa: SIM110, a loop takes half the time of any()
            if dropout.training and dropout.p:
                return True
        return False


class Plan(Protocol):
    """Compiled call of a module, valid while its watch holds."""

    @property
    def watch(self) -> Watch: ...


AnyPlan = TypeVar("AnyPlan", bound=Plan)


def planned(
    plans: MutableMapping[nn.Module, AnyPlan | None], module: nn.Module, build: Callable[[Any], AnyPlan | None]
) -> AnyPlan | None:
    """Return the plan of a module, built anew where something in it has changed; None where it can have none."""
    plan = plans.get(module)
    if plan is None or not plan.watch.holds():
        plan = plans[module] = build(module)
    return plan


def _plain_attributes(module: nn.Module) -> Iterable[str]:
    if type(module).__module__.startswith("torch."):
        return _READ.get(type(module), ())
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and type(value) is not int
    ]


Question = TypeVar("Question", bound=Callable[[], bool])


def constant_in_graphs(question: Question) -> Question:
    """Mark a function whose result torch.compile may take as constant, as `torch.compiler.assume_constant_result` does.

    That one imports torch._dynamo to set the mark: 1.2 s of every command, most of which never compile.
    """
    vars(question)["_dynamo_marked_constant"] = True
    return question


_torch_alone = False


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    """Run everything in torch's own operations meanwhile: the one switch of all kernels of this package.

    For graphs that must run where this package is not installed, and to compare with.
    """
    global _torch_alone
    before, _torch_alone = _torch_alone, True
    try:
        yield
    finally:
        _torch_alone = before


def in_torch() -> bool:
    """Return True if inside `without_fused_kernels`."""
    return _torch_alone


# While torch.compile records a function it enters the function's own transforms: the answer then is a constant of the
# graph, which torch guards.
@constant_in_graphs
def under_transform() -> bool:
    """Return True if inside a torch.func transform and where forward-mode derivatives are taken.

    No kernel of this package has a rule for either. Forward mode goes on under `torch.no_grad`.
    """
    # Torch has no public name for the level of forward mode, which is -1 outside of it.
    return bool(_is_transforming()) or forward_ad._current_level >= 0


def gradients_are_differentiated(*gradients: Tensor | None) -> bool:
    """Return True if in a backward pass for torch's operations: it is itself differentiated, or has many gradients.

    The first is so with `create_graph=True`. `once_differentiable` does not tell: it refuses where the incoming
    gradient needs one, and drops the derivatives through the tensors that were saved. The second is so with
    `is_grads_batched=True`, where the incoming `gradients` have no memory of their own.
    """
    return torch.is_grad_enabled() or under_transform() or any(g is not None and _is_batched(g) for g in gradients)


def runs_alone() -> bool:
    """Return True if outside of `without_fused_kernels` and not watched."""
    return not _torch_alone and is_unwatched()


def is_recorded() -> bool:
    """Return True if torch.compile, torch.export or torch.jit.trace records what runs."""
    return torch.compiler.is_compiling() or bool(_is_tracing())


def is_unwatched() -> bool:
    """Return True if outside of torch.compile, tracing, transforms, autocast, dispatch modes and hooks on all
    modules."""
    if is_recorded() or torch.is_autocast_enabled("cpu"):
        return False
    return not (_is_transforming() or forward_ad._current_level >= 0 or _watchers() or _hooked())


def may_run() -> bool:
    """Return True if no gradient is needed and torch's operations are not watched."""
    return runs_alone() and not torch.is_grad_enabled()


def plain(x: Tensor, dimensions: int) -> bool:
    """Return True if `x` is an ordinary float32 tensor on the CPU."""
    return type(x) is Tensor and x.dtype is torch.float32 and x.is_cpu and x.dim() == dimensions


def readable(tensors: Iterable[Tensor]) -> bool:
    """Return True if the kernels can read parameters where they lie."""
    return all(t.dtype is torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
