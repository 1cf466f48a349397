"""Time and peak memory of a layer, forward and backward, over the sequence length.

Shapes: B batch, T time, D width.
"""

from collections.abc import Iterator

from minrl.bench import memory
from minrl.bench.compared_layers import LAYERS, forward_backward, inputs, make_layer, unusable
from minrl.bench.measure import Call, Times
from minrl.bench.results import LESS, Measurement, Point, Ratio, Settings, Skipped, shape_text, speedup

BATCH, WIDTH = 16, 64
LENGTHS, QUICK = (64, 256, 1024, 4096, 16384), (64, 256)
# Lengths with a row in the table; plots and JSON have all.
SHOWN = (64, 1024, 16384)
RUNTIME, MEMORY = "runtime", "memory"
PEERS = ("GRU", "LSTM", "GRUCell loop", "log space", "mambapy")
# mambapy holds many tensors of 32 elements per element of x: 3 GB here.
LONGEST = {"mambapy": 1024}
# Each needs a process of its own, which takes seconds to start.
QUICK_MEMORY = ("minGRU", "GRU", "log space")
# Total steps of a batch, where it is the same at every length.
STEPS = 1 << 16
# The paper's batch size; it does not state the width of its layers.
PAPER_BATCH, PAPER_WIDTH = 64, 64
PAPER = {("minGRU", 512): 175, ("minGRU", 4096): 1324, ("minLSTM", 512): 235, ("minLSTM", 4096): 1361}


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time, memory, cost per step and the paper's comparison, with one count of threads: the first."""
    settings.first_threads()
    names = ["minGRU", "minLSTM"]
    for name in PEERS:
        if reason := unusable(name, settings):
            yield Skipped("length", LAYERS[name].label, reason)
        else:
            names.append(name)
    lengths = QUICK if settings.quick else LENGTHS
    for steps in lengths:
        yield from _runtime(settings, steps, [name for name in names if steps <= LONGEST.get(name, steps)])
    for name in names:
        if lengths[-1] > LONGEST.get(name, lengths[-1]):
            yield Skipped("length", f"{LAYERS[name].label}, T > {LONGEST[name]}", "too much memory")
    yield from _memory(settings, lengths, names if not settings.quick else [n for n in names if n in QUICK_MEMORY])
    yield _flat(settings, lengths, {steps: STEPS // steps for steps in lengths}, "the same steps in all")
    yield _flat(settings, lengths, dict.fromkeys(lengths, BATCH), "the same batch")
    yield from _paper(settings)


def _runtime(settings: Settings, steps: int, names: list[str]) -> Iterator[Measurement]:
    shape = (BATCH, steps, WIDTH)
    x, reset, direction = inputs(settings, shape)
    calls = {name: forward_backward(make_layer(name, settings, WIDTH), x, reset, direction) for name in names}
    times = settings.times(calls, 9, budget=1.5)
    for name in names:
        yield Point(RUNTIME, LAYERS[name].label, steps, times[name].minimum * 1e3)
        if name in PEERS and (settings.quick or steps in SHOWN):
            yield speedup(
                settings, times, "minGRU", name,
                group="length", what="minGRU layer over T, forward + backward", shape=shape_text(shape, settings.dtype),
                peer=LAYERS[name].peer(settings.on_gpu),
            )  # fmt: skip


def _memory(settings: Settings, lengths: tuple[int, ...], names: list[str]) -> Iterator[Measurement]:
    found: dict[str, dict[int, int]] = {}
    for name in names:
        fitting = [steps for steps in lengths if steps <= LONGEST.get(name, steps)]
        try:
            found[name] = memory.peaks(settings, name, BATCH, fitting, WIDTH)
        except RuntimeError as error:
            yield Skipped("length", f"peak memory of {LAYERS[name].label}", str(error))
            continue
        for steps, value in found[name].items():
            yield Point(MEMORY, LAYERS[name].label, steps, value / 2**20)
    for name in PEERS:
        for steps in found.get(name, {}):
            if (settings.quick or steps in SHOWN) and "minGRU" in found:
                yield _less(settings, name, steps, found["minGRU"][steps], found[name][steps])


def _less(settings: Settings, name: str, steps: int, ours: int, theirs: int) -> Ratio:
    return Ratio(
        group="length",
        what="peak memory of the minGRU layer, forward + backward",
        shape=shape_text((BATCH, steps, WIDTH), settings.dtype),
        threads=settings.threads[0],
        value=theirs / ours,
        unit=LESS,
        peer=LAYERS[name].peer(settings.on_gpu),
        details={"ours, bytes": ours, "peer, bytes": theirs},
    )


def _flat(settings: Settings, lengths: tuple[int, ...], batches: dict[int, int], kept: str) -> Ratio:
    """Compare the cost of a time step over lengths: most over least expensive, all interleaved."""
    calls: dict[str, Call] = {}
    for steps in lengths:
        x, reset, direction = inputs(settings, (batches[steps], steps, WIDTH))
        calls[str(steps)] = forward_backward(make_layer("minGRU", settings, WIDTH), x, reset, direction)
    times = settings.times(calls, 15)
    cost = {name: Times(tuple(s / (int(name) * batches[int(name)]) for s in t.seconds)) for name, t in times.items()}
    least, medians = {k: v.minimum for k, v in cost.items()}, {k: v.median for k, v in cost.items()}
    worst, best = max(least, key=least.__getitem__), min(least, key=least.__getitem__)
    same = "B·T" if "steps" in kept else "B"
    return Ratio(
        group="length",
        what=f"minGRU layer, cost of a time step, T = {lengths[0]} … {lengths[-1]}, {kept}",
        shape=f"{same}={STEPS if same == 'B·T' else BATCH}, D={WIDTH}",
        threads=settings.threads[0],
        value=least[worst] / least[best],
        unit="most ÷ least expensive T",
        peer=f"itself: most expensive at T={worst}, least at T={best}",
        median=max(medians.values()) / min(medians.values()),
        goal="" if settings.quick or same == "B" else "<= 1.2",
        clock=settings.clock().name,
        details={f"T={steps}, nanoseconds a step": 1e9 * value for steps, value in least.items()},
    )


def _paper(settings: Settings) -> Iterator[Measurement]:
    """Compare with GRU and LSTM as Python loops, as the paper does (section 4.1)."""
    for steps in (64,) if settings.quick else (512, 4096):
        shape = (PAPER_BATCH, steps, PAPER_WIDTH)
        x, reset, direction = inputs(settings, shape)
        pairs = {"minGRU": "GRUCell loop", "minLSTM": "LSTMCell loop"}
        calls = {
            name: forward_backward(make_layer(name, settings, PAPER_WIDTH), x, reset, direction)
            for name in [*pairs, *pairs.values()]
        }
        times = settings.times(calls, 9)
        for ours, loop in pairs.items():
            said = f" (the paper, on a T4: {PAPER[ours, steps]})" if (ours, steps) in PAPER else ""
            yield speedup(
                settings, times, ours, loop,
                group="length", what=f"{ours} layer, forward + backward{said}", shape=shape_text(shape, settings.dtype),
                peer=LAYERS[loop].peer(),
            )  # fmt: skip
