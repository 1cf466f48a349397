"""Settings and results of a benchmark."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from minrl.bench.measure import Call, Clock, Times, clock_of, interleaved

X = "\N{MULTIPLICATION SIGN}"
FASTER, COPY, LESS, SHARE, ERROR = f"{X} faster", "÷ copy", f"{X} less memory", "of the layer", "relative error"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement: device, threads, small shapes, rounds."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: tuple[int, ...] = (1,)
    quick: bool = False
    rounds: int | None = None

    @property
    def on_gpu(self) -> bool:
        """True on a GPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Precision of inputs and weights: bfloat16 on a GPU, else float32."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def thread_counts(self) -> Iterator[int]:
        """Yield each number of threads, set meanwhile; on a GPU, where they do not matter, only the first."""
        for threads in self.threads[:1] if self.on_gpu else self.threads:
            torch.set_num_threads(threads)
            yield threads

    def first_threads(self) -> int:
        """Set and return the first number of threads, for measurements with one number only."""
        torch.set_num_threads(self.threads[0])
        return self.threads[0]

    def clock(self) -> Clock:
        """Return the clock for the current number of threads."""
        return clock_of(self.device)

    def times(self, calls: dict[str, Call], rounds: int, budget: float = 6.0) -> dict[str, Times]:
        """Time calls interleaved; `rounds` unless the user set a number, fewer in a quick run."""
        rounds = self.rounds or (min(rounds, 3) if self.quick else rounds)
        return interleaved(calls, rounds, clock=self.clock(), budget=budget / 6 if self.quick else budget)


@dataclass(frozen=True)
class Ratio:
    """Ratio of two times: `value` of the minima, `median` of the medians."""

    group: str
    what: str
    shape: str
    threads: int
    value: float
    unit: str
    peer: str
    median: float | None = None
    goal: str = ""
    clock: str = ""
    times: dict[str, Times] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """Measurement that was not made, with the reason."""

    group: str
    what: str
    reason: str


@dataclass(frozen=True)
class Point:
    """Plotted value: `y` of `curve` at `x`."""

    plot: str
    curve: str
    x: float
    y: float


Measurement = Ratio | Skipped | Point
Group = Callable[[Settings], Iterator[Measurement]]


def shape_text(shape: Shape, dtype: torch.dtype = torch.float32) -> str:
    """Format a shape as BxTxD, with the precision if not float32."""
    text = X.join(map(str, shape))
    return text if dtype == torch.float32 else f"{text} {str(dtype).removeprefix('torch.')}"


def ratio(times: dict[str, Times], over: str, under: str) -> tuple[float, float]:
    """Return the ratios of minima and of medians."""
    a, b = times[over], times[under]
    return a.minimum / b.minimum, a.median / b.median


def speedup(
    settings: Settings, times: dict[str, Times], ours: str, theirs: str, *, group: str, what: str, shape: str,
    peer: str, goal: str = "",
) -> Ratio:  # fmt: skip
    """Compute how many times as fast as `theirs` `ours` is."""
    value, median = ratio(times, theirs, ours)
    return Ratio(
        group, what, shape, torch.get_num_threads(), value, FASTER, peer, median, goal,
        settings.clock().name, {"ours": times[ours], "peer": times[theirs]},
    )  # fmt: skip
