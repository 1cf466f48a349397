"""The matmuls of float32 layers on a CPU: torch's, or oneDNN's on processors where it is far faster.

The environment variable `MINRL_MATMUL` decides: `torch`, `onednn`, or `auto` (the default), by the processor.

Shapes: N rows, K inputs, M outputs of a layer.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrl.kernels.guard import gradients_are_differentiated, is_recorded, runs_alone

LIBRARIES = "auto", "torch", "onednn"
# MKL 2024, which torch calls, leaves AVX-512 unused on processors of AMD. On Zen 5 (family 26), the first whose units
# are 512 bits wide, oneDNN is 2.3x as fast (99 and 235 GFLOP/s of one core); on Zen 4 (family 25) 1.1x.
_AMD, _FIRST_WIDE_FAMILY = "AuthenticAMD", 26
# Below this many rows the call of oneDNN costs more than it saves.
_FEWEST_ROWS = 64
# From this many rows on, the rounding of a row does not depend on the number of rows.
_ROWS_OF_A_SCAN = 8
_settled = "auto"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute x (N, K), weight (M, K), bias (M) -> (N, M)."""
    if _fits(x):
        return _onednn(x, weight, bias)
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def linear_into(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Compute `linear` into `out` (N, M)."""
    if _fits(x):
        out.copy_(_onednn(x, weight, bias))
    elif bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def linear_added(x: Tensor, weight: Tensor, to: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute to (N, M) + x (N, K) times weight (M, K), without a copy; `out` may be `to`."""
    if _fits(x):
        return torch.add(to, _onednn(x, weight, None), out=out)
    return torch.addmm(to, x, weight.t(), out=out)


def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """Compute dy (N, M), weight (M, K) -> (N, K)."""
    return _onednn(dy, weight.t(), None) if _fits(dy) else torch.mm(dy, weight)


def layer(module: nn.Module, x: Tensor) -> Tensor:
    """Compute `module(x)` for x (..., K), a linear layer by the same choice and with all gradients."""
    if not runs_alone() or type(module) is not nn.Linear or not _is_plain(module, x):
        return module(x)  # type: ignore[no-any-return]
    # Always as rows: for three dimensions torch chooses between two matmuls that round differently.
    rows = x.reshape(-1, x.shape[-1])
    if _fits(rows):
        y: Tensor = _Layer.apply(rows, module.weight, module.bias)  # type: ignore[no-untyped-call]
    else:
        y = F.linear(rows, module.weight, module.bias)
    return y.view(*x.shape[:-1], module.out_features)


def halves(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the first and the second half of the outputs of a linear layer without bias, for x (..., K).

    Each is a product of its own, and contiguous: of one product both would be copied, forward and backward.
    """
    if not runs_alone() or type(module) is not nn.Linear or not _is_plain(module, x) or module.bias is not None:
        first, second = module(x).chunk(2, dim=-1)
        return first, second
    rows = x.reshape(-1, x.shape[-1])
    first, second = (F.linear(rows, part).view(*x.shape[:-1], -1) for part in module.weight.chunk(2))
    return first, second


def narrow(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x (..., K) times weight (M, K) for an M of a few, with all gradients.

    Torch's own backward pass forms the transpose of the gradient to such a weight, which takes eight times as long.
    """
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _Layer.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], weight.shape[0])


def layer_of_step(module: nn.Module, x: Tensor) -> Tensor:
    """Apply `layer` to the few rows x (N, K) of a step, rounded on a CPU like the many rows of a scan.

    For fewer than four rows torch's library sums in another order than for more. (If K is no multiple of eight, its
    rounding also depends on the alignment of a row.)
    """
    # Recording is tested first: a graph must not depend on the number of rows.
    if is_recorded() or type(module) is not nn.Linear or not x.is_cpu or x.dim() != 2:
        return layer(module, x)
    missing = _ROWS_OF_A_SCAN - x.shape[0]
    return layer(module, x) if missing <= 0 else layer(module, F.pad(x, (0, 0, 0, missing)))[: x.shape[0]]


def _is_plain(module: nn.Linear, x: Tensor) -> bool:
    """Return True if the layer's weights may be read without calling it: it has no hooks, and they fit x."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    plain = type(x) in (Tensor, nn.Parameter) and x.is_cpu and type(module.weight) is nn.Parameter
    return plain and not hooks and module.weight.dtype == x.dtype


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        # oneDNN's product has no derivative.
        of_input = torch.mm if gradients_are_differentiated(*gradients) else input_gradient
        dy = gradients[0].contiguous()
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            of_input(dy, weight) if of_x else None,
            torch.mm(dy.t(), x) if of_weight else None,
            dy.sum(0) if of_bias else None,
        )


def library() -> str:
    """Return the library in use, `torch` or `onednn`.

    Raises:
        ValueError: if `MINRL_MATMUL` is none of `LIBRARIES`.
    """
    asked = os.environ.get("MINRL_MATMUL", "auto")
    return _library(_settled if asked == "auto" else asked)


def settle(name: str | None) -> None:
    """Use the library of a resumed run from now on, unless `MINRL_MATMUL` decides.

    The two round differently, and the run may have been started on another processor.
    """
    global _settled
    _settled = name if name in LIBRARIES else "auto"


@cache
def _library(wanted: str) -> str:
    if wanted not in LIBRARIES:
        raise ValueError(f'MINRL_MATMUL must be one of {", ".join(LIBRARIES)}, got "{wanted}"')
    if wanted == "torch" or not _has_onednn():
        return "torch"
    return "onednn" if wanted == "onednn" or _mkl_is_slow() else "torch"


def _has_onednn() -> bool:
    """Return True if this torch has the operator, which is not public, and it computes what it should."""
    try:
        x, weight = torch.ones(2, 3), torch.ones(4, 3)
        return bool(torch.equal(_onednn(x, weight, None), torch.full((2, 4), 3.0)))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _mkl_is_slow() -> bool:
    facts = processor_facts()
    is_wide = facts.get("vendor_id") == _AMD and int(facts.get("cpu family", 0)) >= _FIRST_WIDE_FAMILY
    return is_wide and torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def processor_facts() -> dict[str, str]:
    """Return Linux's facts about the first processor, such as its "model name"; empty on other systems."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return {}
    first, _, _ = information.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _fits(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.is_cpu and x.shape[0] >= _FEWEST_ROWS and library() == "onednn"


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y
