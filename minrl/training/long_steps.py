"""Gradient steps that a signal breaks off before the weights change, as long ones would keep it waiting."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from minrl.agent import Sampler
from minrl.system.signals import Stopped, StopRequest

LONG = 0.5  # seconds of a step after which the next one may be broken off
Breakable = Callable[[], AbstractContextManager[None]]


class LongSteps:
    """Gradient steps of a process, of which those that may be long can be broken off.

    A step may be long if it is the first, which may compile, or if the one before it was. Only then the state that it
    begins with is noted, which takes longer than a short step of a small agent.

    Args:
        sampler: of the batches, which a step that is broken off has drawn from.
        allowed: False if no step may be broken off, as with several processes, which must stop after the same one.
    """

    def __init__(self, sampler: Sampler, *, allowed: bool) -> None:
        self.sampler, self.allowed = sampler, allowed
        self.seconds = math.inf  # of the last step

    @contextmanager
    def step(self, request: StopRequest) -> Iterator[Breakable]:
        """Yield the context in which a step computes its gradient, without other effects.

        Raises:
            Stopped: if a signal broke the step off; sampler and random generator are where they were before it.
        """
        begin = time.perf_counter()
        if not self.allowed or self.seconds < LONG:
            yield nullcontext
        else:
            position, random = self.sampler.state_dict(), torch.get_rng_state()
            try:
                yield request.at_once
            except Stopped:
                self.sampler.load_state_dict(position)
                torch.set_rng_state(random)
                raise
        self.seconds = time.perf_counter() - begin
