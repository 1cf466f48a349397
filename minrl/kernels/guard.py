"""Guards of compiled calls: is the module unchanged since a call was planned, and may a compiled call run here?"""

import operator
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_is_tracing: Any = torch.jit.is_tracing  # type: ignore[attr-defined]
# Torch has no public names for these: active function transforms, dispatch modes, global module hooks, and gradients
# that stand for many (`is_grads_batched`).
_is_transforming: Any = getattr(torch._C, "_are_functorch_transforms_active", bool)
_watchers: Any = getattr(torch._C, "_len_torch_dispatch_stack", int)
_hooked: Any = getattr(nn.modules.module, "_has_any_global_hook", bool)
_is_batched: Any = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda x: False)


# The plain attributes of torch's modules that their functions read. Of other modules all public ones count, except
# integers: those are sizes, which change with the weights.
_READ: dict[type[nn.Module], tuple[str, ...]] = {
    nn.LayerNorm: ("eps",),
    nn.GELU: ("approximate",),
    nn.Embedding: ("max_norm",),
}


@dataclass(frozen=True)
class Watch:
    """Parts of a module that a plan depends on: submodules, parameters, plain attributes, storage and hooks."""

    # The submodules of each module, now and when the plan was made, compared by identity.
    children: list[dict[str, Any]]
    children_then: list[dict[str, Any]]
    # The object of each name in each owner.
    owners: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    members: tuple[Any, ...]
    # The attributes of each module and their number: an own `forward` would be one more.
    spaces: tuple[dict[str, Any], ...]
    counts: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    pointers: tuple[int, ...]
    matrices: tuple[Tensor, ...]  # tensors that can be transposed or truncated in place
    lengths: tuple[int, ...]  # their numbers of elements
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
        """Watch all of `module`; return None if a part is hooked or has a method of its own.

        Args:
            module: of the plan.
            tensors: its parameters and buffers that are read in place, all contiguous.
            attributes: further plain attributes that count, beside public ones.
            backward: True if gradients are computed too, so that hooks on them count.
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

    def is_valid(self) -> bool:
        """Return True if nothing was replaced, changed, moved, transposed, truncated or hooked since."""
        return (
            self.children == self.children_then
            and all(map(operator.is_, map(dict.get, self.owners, self.names), self.members))
            and tuple(map(len, self.spaces)) == self.counts
            and tuple(map(Tensor.data_ptr, self.tensors)) == self.pointers
            and tuple(map(Tensor.numel, self.matrices)) == self.lengths
            and all(map(Tensor.is_contiguous, self.matrices))
            and not any(self.hooks)
        )

    def has_dropout(self) -> bool:
        """Return True if dropout is active."""
        for dropout in self.dropouts:  # noqa: SIM110, a loop takes half the time of any()
            if dropout.training and dropout.p:
                return True
        return False


class Plan(Protocol):
    """Compiled call of a module, valid while its watch is."""

    @property
    def watch(self) -> Watch: ...


AnyPlan = TypeVar("AnyPlan", bound=Plan)


def planned(
    plans: MutableMapping[nn.Module, AnyPlan | None], module: nn.Module, build: Callable[[Any], AnyPlan | None]
) -> AnyPlan | None:
    """Return the plan of a module, rebuilt if a part has changed; None if it can have none."""
    plan = plans.get(module)
    if plan is None or not plan.watch.is_valid():
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
    """Run everything in torch's own operations inside the context: the one switch of all kernels of this package.

    For graphs that must run without this package, and for comparisons.
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


# While torch.compile records a function, it enters the function's own transforms: the result is then a constant of
# the graph, which torch guards.
@constant_in_graphs
def under_transform() -> bool:
    """Return True if inside a torch.func transform and where forward-mode derivatives are taken.

    No kernel of this package has a rule for either. Forward mode continues under `torch.no_grad`.
    """
    # Torch has no public name for the level of forward mode, which is -1 outside of it.
    return bool(_is_transforming()) or forward_ad._current_level >= 0


def gradients_are_differentiated(*gradients: Tensor | None) -> bool:
    """Return True if in a backward pass for torch's operations: it is itself differentiated, or has many gradients.

    The first with `create_graph=True`. `once_differentiable` cannot replace this test: it refuses only if the incoming
    gradient needs one, and drops the derivatives through saved tensors. The second with `is_grads_batched=True`, where
    the incoming `gradients` have no storage of their own.
    """
    return torch.is_grad_enabled() or under_transform() or any(g is not None and _is_batched(g) for g in gradients)


def runs_alone() -> bool:
    """Return True if outside of `without_fused_kernels` and not watched."""
    return not _torch_alone and is_unwatched()


def is_recorded() -> bool:
    """Return True if torch.compile, torch.export or torch.jit.trace records the operations."""
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


def readable(tensors: Iterable[Tensor], dtype: torch.dtype = torch.float32) -> bool:
    """Return True if the kernels can read parameters in place."""
    return all(t.dtype is dtype and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
