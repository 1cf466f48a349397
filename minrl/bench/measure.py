"""Interleaved timing: calls are timed in turn, so that ratios do not compare two moments of the machine."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Call = Callable[[], object]

# Most calls in one measurement.
_MAX_REPEATS = 10_000


@dataclass(frozen=True)
class Clock:
    """Function `now` in seconds, and the name of what it measures."""

    name: str
    now: Callable[[], float]


@dataclass(frozen=True)
class Times:
    """Seconds of one call, a value for each round that it took part in."""

    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """Return the least: it is undisturbed by other load."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The median: typical."""
        return statistics.median(self.seconds)


def clock_of(device: torch.device) -> Clock:
    """Return CPU time for one thread, which other programs disturb less, else wall time."""
    if device.type == "cuda":
        return Clock("wall, GPU synchronised", _synchronised)
    if torch.get_num_threads() == 1:
        return Clock("CPU time of the process", time.process_time)
    return Clock("wall", time.perf_counter)


def _synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    calls: Mapping[str, Call], rounds: int, *, clock: Clock, budget: float = math.inf, least: float = 2e-3
) -> dict[str, Times]:
    """Time every call once per round, in an order that rotates from round to round.

    Each call first runs at least twice, untimed. Calls of less than `least` seconds are repeated within a round and
    averaged. A call whose `rounds` would take longer than `budget` seconds takes part in fewer, at least one, spread
    over the run; all take part in the first.

    Args:
        calls: by name.
        rounds: at least 1.
        clock: that measures.
        budget: seconds for all rounds of a call.
        least: seconds that one measurement should last.
    """
    repeats = {name: _repeats(call, clock, least) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    allotted = dict.fromkeys(names, rounds)
    # The garbage collector would charge one call for the garbage of others.
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                if not _takes_part(number, allotted[name], rounds):
                    continue
                spent = _timed(calls[name], repeats[name], clock)
                seconds[name].append(spent / repeats[name])
                if number == 0 and spent > 0:
                    allotted[name] = max(1, min(rounds, int(min(budget / spent, rounds))))
    finally:
        if collects:
            gc.enable()
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def _takes_part(number: int, allotted: int, rounds: int) -> bool:
    """Return True if round `number` is one of `allotted` among `rounds`: the first, and others spaced evenly."""
    if number == 0 or allotted == rounds:
        return True
    later = allotted - 1
    return number * later // (rounds - 1) > (number - 1) * later // (rounds - 1)


def _timed(call: Call, repeats: int, clock: Clock) -> float:
    begin = clock.now()
    for _ in range(repeats):
        call()
    return clock.now() - begin


def _repeats(call: Call, clock: Clock, least: float) -> int:
    """Choose the number of calls per measurement. The first call, which may compile, is ignored."""
    call()
    repeats = 1
    while (spent := _timed(call, repeats, clock)) < least and repeats < _MAX_REPEATS:
        # In several steps, as the first calls are slower than later ones.
        repeats = min(_MAX_REPEATS, repeats * 4, math.ceil(1.2 * repeats * least / max(spent, 1e-9)) + 1)
    return repeats
