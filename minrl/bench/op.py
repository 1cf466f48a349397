"""The recurrence alone, gates included, against the memory-copy limit and other implementations.

The limit is a copy that moves as many bytes as the operation must, reads and writes counted. Per element of h, minGRU
forward reads the gates (2 elements) and writes h: 3; backward reads gates, h and the gradient of h and writes that of
the gates: 6. minLSTM has one gate more: 4 and 8.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from minrl.bench.compared_layers import RESETS
from minrl.bench.measure import Call, Times
from minrl.bench.other_scans import Form, other_forms
from minrl.bench.results import COPY, Measurement, Ratio, Settings, Shape, ratio, shape_text, speedup
from minrl.scan import mingru_scan, minlstm_scan

SHAPES: tuple[Shape, ...] = ((64, 512, 128), (16, 4096, 64), (8, 1000, 256))
GPU_SHAPES: tuple[Shape, ...] = ((64, 4096, 256), (64, 512, 128))
QUICK: tuple[Shape, ...] = ((8, 64, 64),)
# Below this number of elements of h everything fits the caches, and memory is not the limit.
_LARGE = 2_000_000
BOTH, FORWARD = "forward + backward", "forward"
# Elements that each cell and pass moves per element of h.
MOVED = {("minGRU", FORWARD): 3, ("minGRU", BOTH): 9, ("minLSTM", FORWARD): 4, ("minLSTM", BOTH): 12}


def measure(settings: Settings) -> Iterator[Measurement]:
    """Measure every shape and number of threads; other implementations at the first shape."""
    forms, skipped = other_forms(settings)
    yield from skipped
    for threads in settings.thread_counts():
        shapes = QUICK if settings.quick else GPU_SHAPES if settings.on_gpu else SHAPES
        for shape in shapes:
            yield from _shape(settings, threads, shape, forms if shape == shapes[0] else {})


def _shape(
    settings: Settings, threads: int, shape: Shape, forms: dict[str, Callable[[Tensor], Form]]
) -> Iterator[Measurement]:
    reset = torch.rand(*shape[:2], device=settings.device) < RESETS
    calls: dict[str, Call] = {}
    for name, scan, parts in (("minGRU", mingru_scan, 2), ("minLSTM", minlstm_scan, 3)):
        calls |= _passes(name, _with_reset(scan, reset), _gates(settings, shape, parts))
    for (name, passes), moved in MOVED.items():
        calls |= {f"{name}, {passes}, {how}": copy for how, copy in _copies(settings, threads, shape, moved).items()}
    gates = _gates(settings, shape, 2)
    for name, form in forms.items():
        calls[name] = _backward(form(reset), gates)
    times = settings.times(calls, 25, budget=4.0)
    for name, passes in MOVED:
        yield _against_copy(settings, times, threads, shape, name, passes)
    what, text = f"minGRU operation, {BOTH}", shape_text(shape, settings.dtype)
    for name in forms:
        yield speedup(settings, times, f"minGRU, {BOTH}", name, group="op", what=what, shape=text, peer=name)


def _against_copy(
    settings: Settings, times: dict[str, Times], threads: int, shape: Shape, name: str, passes: str
) -> Ratio:
    """Compare with the fastest copy."""
    ours, moved = f"{name}, {passes}", MOVED[name, passes]
    copy = min((key for key in times if key.startswith(f"{ours}, ")), key=lambda key: times[key].minimum)
    value, median = ratio(times, ours, copy)
    goal = ""
    if name == "minGRU" and passes == BOTH and not settings.quick:
        if settings.on_gpu:
            goal = "<= 1.5" if shape == GPU_SHAPES[0] else ""
        elif _elements(shape) >= _LARGE:
            goal = "<= 1.6"
    moved_bytes = moved * _elements(shape) * settings.dtype.itemsize
    return Ratio(
        group="op",
        what=f"{name} operation, {passes}",
        shape=shape_text(shape, settings.dtype),
        threads=threads,
        value=value,
        unit=COPY,
        peer=f"memory copy that moves {moved}·B·T·D elements",
        median=median,
        goal=goal,
        clock=settings.clock().name,
        times={"ours": times[ours], "peer": times[copy]},
        details={"copy, GB/s": moved_bytes / times[copy].minimum / 1e9},
    )


def _elements(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]


def _gates(settings: Settings, shape: Shape, parts: int) -> Tensor:
    batch, steps, width = shape
    return torch.randn(batch, steps, parts * width, device=settings.device, dtype=settings.dtype)


def _copies(settings: Settings, threads: int, shape: Shape, moved: int) -> dict[str, Call]:
    """Return copies that move `moved` elements per element of h, half read and half written.

    With several threads torch's copy waits at a barrier, which is slow if other programs run; then a copy without
    barrier is measured too.
    """
    source = torch.randn(_elements(shape) * moved // 2, device=settings.device, dtype=settings.dtype)
    target = torch.empty_like(source)
    copies: dict[str, Call] = {"copy": lambda: target.copy_(source)}
    if threads > 1 and not settings.on_gpu:
        pool = ThreadPoolExecutor(threads)
        parts = [np.array_split(x.numpy(), threads) for x in (target, source)]
        copies["copy without barrier"] = lambda: list(pool.map(np.copyto, *parts))
    return copies


def _with_reset(scan: Callable[..., tuple[Tensor, Tensor]], reset: Tensor) -> Form:
    return lambda gates: scan(gates, None, reset)[0]


def _passes(name: str, form: Form, gates: Tensor) -> dict[str, Call]:
    def forward() -> object:
        with torch.no_grad():
            return form(gates)

    return {f"{name}, {FORWARD}": forward, f"{name}, {BOTH}": _backward(form, gates)}


def _backward(form: Form, gates: Tensor) -> Call:
    """Return a call that computes the gates' gradient from the gradient of h."""
    gates = gates.clone().requires_grad_()
    direction = torch.randn_like(form(gates.detach()))
    return lambda: torch.autograd.grad(form(gates), gates, direction)
