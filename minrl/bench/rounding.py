"""Rounding errors: float32 against a float64 loop, relative to the largest value, over T.

Shapes: B batch, T time, D width.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minrl.bench.compared_layers import RESETS
from minrl.bench.other_scans import loop_scan
from minrl.bench.results import ERROR, Measurement, Ratio, Settings, shape_text
from minrl.kernels.scan import reference
from minrl.scan import mingru_gates, mingru_scan, minlstm_gates, minlstm_scan

LENGTHS, QUICK = (128, 1024, 4096, 16384), (128, 512)
DECAYS = (0.5, 0.98, 0.9997)
BATCH, WIDTH = 2, 32
_LOG_SPACE = "minGRU as published (log space)"


def measure(settings: Settings) -> Iterator[Measurement]:
    """Measure each cell and length: the worst over decays, outputs and gradients, with all of them as details."""
    threads = settings.first_threads()
    for steps in QUICK if settings.quick else LENGTHS:
        found: dict[str, dict[str, float]] = {"minGRU": {}, "minLSTM": {}, _LOG_SPACE: {}}
        for decay in DECAYS:
            for name, errors in _errors(settings.device, steps, decay).items():
                found[name] |= {f"decay {decay}, {what}": value for what, value in errors.items()}
        for name, details in found.items():
            resets = "no resets" if name == _LOG_SPACE else "with resets"
            yield Ratio(
                group="error",
                what=f"{name}, float32 rounding, {resets}, worst of decays {', '.join(map(str, DECAYS))}",
                shape=shape_text((BATCH, steps, WIDTH)),
                threads=threads,
                value=max(details.values()),
                unit=ERROR,
                peer="float64 loop of the equations, outputs and gradients",
                goal="" if name == _LOG_SPACE else "<= 5e-6",
                details=details,
            )


def _errors(device: torch.device, steps: int, decay: float) -> dict[str, dict[str, float]]:
    reset = torch.rand(BATCH, steps, device=device) < RESETS
    update, forget = (
        _gates(device, steps, (-_log_odds(decay),)),
        _gates(device, steps, (_log_odds(decay), -_log_odds(decay))),
    )
    expected = _reference(mingru_gates, reset)
    return {
        "minGRU": _compare(lambda x: mingru_scan(x, None, reset)[0], expected, update),
        "minLSTM": _compare(lambda x: minlstm_scan(x, None, reset)[0], _reference(minlstm_gates, reset), forget),
        _LOG_SPACE: _compare(reference.log_space_mingru, _reference(mingru_gates, None), update),
    }


def _gates(device: torch.device, steps: int, centres: tuple[float, ...]) -> Tensor:
    """Draw gates (B, T, …) around their centres, then a candidate."""
    gates = [centre + 0.5 * torch.randn(BATCH, steps, WIDTH, device=device) for centre in centres]
    return torch.cat([*gates, torch.randn(BATCH, steps, WIDTH, device=device)], dim=2)


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _reference(form: Callable[..., tuple[Tensor, Tensor]], reset: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda x: loop_scan(*form(x, candidate="positive", signed=False), None, reset)[0]


def _compare(ours: Callable[[Tensor], Tensor], exact: Callable[[Tensor], Tensor], gates: Tensor) -> dict[str, float]:
    """Return the largest difference over the largest value, for outputs and gate gradients."""
    direction = torch.randn_like(ours(gates))
    found = [_outputs_and_gradients(form, x, direction) for form, x in ((ours, gates), (exact, gates.double()))]
    names = ("outputs", "gradients")
    return {name: float((a.double() - b).abs().max() / b.abs().max()) for name, a, b in zip(names, *found, strict=True)}


def _outputs_and_gradients(form: Callable[[Tensor], Tensor], gates: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    gates = gates.clone().requires_grad_()
    h = form(gates)
    (gradient,) = torch.autograd.grad(h, gates, direction.to(h.dtype))
    return h.detach(), gradient
