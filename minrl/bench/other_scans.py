"""Other implementations of the minGRU recurrence over given gates, each built for resets (B, T).

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from minrl.bench.machine import failure, missing, version
from minrl.bench.results import Settings, Skipped
from minrl.kernels.scan import chunked, reference
from minrl.scan import mingru_gates

Form = Callable[[Tensor], Tensor]


def other_forms(settings: Settings) -> tuple[dict[str, Callable[[Tensor], Form]], list[Skipped]]:
    """Return the available implementations by label, and the missing ones."""
    torch_version = version("torch")
    forms: dict[str, Callable[[Tensor], Form]] = {
        f"torch operations in a loop over time, {torch_version}": _of_scan(loop_scan),
        f"torch operations in chunks, {torch_version}": _of_scan(chunked.linear_scan),
        f"torch operations in log space as published, no resets, {torch_version}": lambda _: reference.log_space_mingru,
    }
    fla, accelerated = version("flash-linear-attention"), version("accelerated-scan")
    optional = (
        ("torch associative_scan", torch_version, "torch._higher_order_ops.associative_scan", _associative),
        ("chunk_hgrn, gates in torch, no resets", fla, "fla.ops.hgrn", _flash_linear_attention),
        ("scan in warps, gates in torch, no resets", accelerated, "accelerated_scan.warp", _accelerated),
    )
    skipped = []
    for name, package, module, form in optional:
        gpu_only = not module.startswith("torch") and not settings.on_gpu
        if reason := "it runs on CUDA only" if gpu_only else missing(module) or _fails(form, settings):
            skipped.append(Skipped("op", f"{name}, {package}", reason))
        else:
            forms[f"{name}, {package}"] = form
    return forms, skipped


def _fails(form: Callable[[Tensor], Form], settings: Settings) -> str | None:
    """Return why forward and backward fail on a small input; None if they work."""
    reset = torch.zeros(2, 32, dtype=torch.bool, device=settings.device)
    gates = torch.randn(2, 32, 32, device=settings.device, dtype=settings.dtype, requires_grad=True)
    return failure(lambda: torch.autograd.grad(form(reset)(gates).sum(), gates))


def loop_scan(decay: Tensor, drive: Tensor, state: None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scan as `minrl.kernels.scan.reference.linear_scan`, unbound beforehand: indexing makes the gradient T times as
    expensive.
    """
    if reset is not None:
        decay = decay.masked_fill(reset.unsqueeze(-1), 0.0)
    h = torch.zeros_like(drive[:, 0])
    outputs = []
    for a, b in zip(decay.unbind(1), drive.unbind(1), strict=True):
        h = torch.addcmul(b, a, h)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h


def _of_scan(scan: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Tensor], Form]:
    return lambda reset: lambda gates: scan(*_decay_and_drive(gates), None, reset)[0]


def _decay_and_drive(gates: Tensor) -> tuple[Tensor, Tensor]:
    return mingru_gates(gates, candidate="positive", signed=False)


def _associative(reset: Tensor) -> Form:
    """Build torch's own associative scan, in its generic mode, with resets as decays of zero."""
    scan = import_module("torch._higher_order_ops.associative_scan").associative_scan

    def combine(first: Any, second: Any) -> tuple[Tensor, Tensor]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    def form(gates: Tensor) -> Tensor:
        decay, drive = _decay_and_drive(gates)
        decay = decay.masked_fill(reset.unsqueeze(-1), 0.0)
        h: Tensor = scan(combine, (decay, drive), dim=1, combine_mode="generic")[1]
        return h

    return form


def _flash_linear_attention(_: Tensor) -> Form:
    """Build flash-linear-attention's h_t = exp(g_t) h_{t-1} + x_t of log decays g."""
    scan = import_module("fla.ops.hgrn").chunk_hgrn

    def form(gates: Tensor) -> Tensor:
        decay, drive = _decay_and_drive(gates)
        h: Tensor = scan(drive, decay.log())[0]
        return h

    return form


def _accelerated(_: Tensor) -> Form:
    """Build accelerated-scan's, over (B, D, T) with T a power of two."""
    scan = import_module("accelerated_scan.warp").scan

    def form(gates: Tensor) -> Tensor:
        decay, drive = (part.transpose(1, 2).contiguous() for part in _decay_and_drive(gates))
        h: Tensor = scan(decay, drive).transpose(1, 2)
        return h

    return form
