"""What a benchmark is asked and what it answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from minrl.bench.measure import Call, Clock, Times, clock_of, interleaved

X = "\N{MULTIPLICATION SIGN}"
FASTER, COPY, LESS, SHARE, ERROR = f"{X} faster", "÷ copy", f"{X} less memory", "of the layer", "relative error"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """How to measure: where, with how many threads, whether with small shapes, and in how many rounds."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: tuple[int, ...] = (1,)
    quick: bool = False
    rounds: int | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """The precision of inputs and weights: bfloat16 on a GPU, else float32."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def thread_counts(self) -> Iterator[int]:
        """Each count of threads, set while it lasts; on a GPU they do not matter and the first alone comes."""
        for threads in self.threads[:1] if self.on_gpu else self.threads:
            torch.set_num_threads(threads)
            yield threads

    def first_threads(self) -> int:
        """The first count of threads, set: for what is measured with one count only."""
        torch.set_num_threads(self.threads[0])
        return self.threads[0]

    def clock(self) -> Clock:
        """What tells the time with the threads that are set."""
        return clock_of(self.device)

    def times(self, calls: dict[str, Call], rounds: int, budget: float = 6.0) -> dict[str, Times]:
        """Interleaved times; `rounds` unless the user has said how many, fewer in a quick run."""
        rounds = self.rounds or (min(rounds, 3) if self.quick else rounds)
        return interleaved(calls, rounds, clock=self.clock(), budget=budget / 6 if self.quick else budget)


@dataclass(frozen=True)
class Figure:
    """One ratio: `value` of the least times, `median` of the medians."""

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
    """What was not measured, and why."""

    group: str
    what: str
    reason: str


@dataclass(frozen=True)
class Point:
    """One point of a plot: `y` of `curve` at `x`."""

    plot: str
    curve: str
    x: float
    y: float


Result = Figure | Skipped | Point
Group = Callable[[Settings], Iterator[Result]]


def size(shape: Shape, dtype: torch.dtype = torch.float32) -> str:
    """BxTxD, with the precision where it is not float32."""
    text = X.join(map(str, shape))
    return text if dtype == torch.float32 else f"{text} {str(dtype).removeprefix('torch.')}"


def ratio(times: dict[str, Times], over: str, under: str) -> tuple[float, float]:
    """Least time over least time, and median over median."""
    a, b = times[over], times[under]
    return a.minimum / b.minimum, a.median / b.median


def faster(
    settings: Settings, times: dict[str, Times], ours: str, theirs: str, *, group: str, what: str, shape: str,
    peer: str, goal: str = "",
) -> Figure:  # fmt: skip
    """How many times as fast `ours` is as `theirs`."""
    value, median = ratio(times, theirs, ours)
    return Figure(
        group, what, shape, torch.get_num_threads(), value, FASTER, peer, median, goal,
        settings.clock().name, {"ours": times[ours], "peer": times[theirs]},
    )  # fmt: skip
