"""Timing of `minrl bench`: calls in turn, and the ratios between them."""

import gc
import time
from collections.abc import Callable

import pytest
import torch

from minrl.bench.measure import Clock, clock_of, interleaved


class World:
    """Clock that only timed calls advance."""

    def __init__(self) -> None:
        self.time = 0.0
        self.log: list[str] = []
        self.clock = Clock("of a test", lambda: self.time)

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.time += seconds
            self.log.append(name)

        return run


def test_the_ratio_of_two_calls() -> None:
    world = World()
    times = interleaved({"short": world.call("s", 0.004), "long": world.call("l", 0.02)}, 7, clock=world.clock)
    assert times["long"].minimum / times["short"].minimum == pytest.approx(5)
    assert all(len(value.seconds) == 7 for value in times.values())


def test_every_call_is_in_every_round_and_the_order_turns() -> None:
    world = World()
    times = interleaved({name: world.call(name, 1.0) for name in "abc"}, 3, clock=world.clock)
    assert "".join(world.log) == "aabbcc" + "abc" + "bca" + "cab"
    assert [times[name].seconds for name in "abc"] == [(1.0,) * 3] * 3


def test_short_calls_are_repeated_and_averaged() -> None:
    world = World()
    times = interleaved(
        {"short": world.call("s", 0.001), "long": world.call("l", 1.0)}, 2, clock=world.clock, least=0.1
    )
    assert times["short"].seconds == (pytest.approx(0.001), pytest.approx(0.001))
    log = "".join(world.log)
    assert 100 <= len(log) - len(log.rstrip("s")) <= 400  # the second round begins with the long call
    assert world.log.count("l") == 2 + 2


def test_a_budget_leaves_rounds_out_evenly() -> None:
    world = World()
    calls = {"slow": world.call("s", 1.0), "quick": world.call("q", 0.1)}
    times = interleaved(calls, 13, clock=world.clock, budget=4.5)
    assert len(times["slow"].seconds) == 4
    assert len(times["quick"].seconds) == 13
    taken = [i for i, (a, b) in enumerate(zip(world.log[4:], world.log[5:], strict=False)) if "s" in (a, b)]
    assert taken[-1] > len(world.log[4:]) / 2


def test_a_call_beyond_its_budget_is_timed_once() -> None:
    world = World()
    times = interleaved({"slow": world.call("s", 10.0), "quick": world.call("q", 0.1)}, 5, clock=world.clock, budget=3)
    assert times["slow"].seconds == (10.0,)
    assert world.log.count("s") == 2 + 1


def test_minimum_and_median() -> None:
    world = World()
    durations = iter([4.0, 4.0, 5.0, 1.0, 2.0])

    def run() -> None:
        world.time += next(durations)

    times = interleaved({"it": run}, 3, clock=world.clock, least=0.0)
    assert (times["it"].minimum, times["it"].median) == (1.0, 2.0)


def test_the_collector_is_off_meanwhile_and_on_again_where_a_call_fails() -> None:
    seen = []

    def fail() -> None:
        seen.append(gc.isenabled())
        if not seen[-1]:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        interleaved({"it": fail}, 2, clock=World().clock)
    assert seen[-1] is False
    assert gc.isenabled()


def test_the_clock() -> None:
    cpu = torch.device("cpu")
    assert clock_of(cpu).now is time.process_time
    torch.set_num_threads(2)
    try:
        assert clock_of(cpu).now is time.perf_counter
    finally:
        torch.set_num_threads(1)
