"""A training step captured as one CUDA graph and replayed, so that kernel launches do not dominate."""

from collections.abc import Callable

import torch
from torch import Tensor

from minrl.agent import Batch

Step = Callable[[Batch, Tensor | None], tuple[Tensor, ...]]

# Eager steps before the capture: libraries initialise and allocators settle.
_WARM_UP = 3


class CapturedStep:
    """Training step replayed from one CUDA graph; first calls and other batch shapes run eagerly.

    `step` must not read values back to the host, and must update its own state in place.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Batch, memory: Tensor | None) -> tuple[Tensor, ...]:
        """Run the step and return its results in tensors that later replays do not overwrite.

        From the third call on `memory` is given always or never, so that the warm-up compiles what the capture uses.
        """
        self.calls += 1
        if self.calls <= _WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                results = self.step(batch, memory)
            torch.cuda.current_stream().wait_stream(self.stream)
            return results
        if self.graph is None:
            self._record(batch, memory)
        assert self.graph is not None
        given = _tensors(batch, memory)
        if [x.shape for x in given] != [x.shape for x in self.inputs]:  # copy_ would broadcast silently
            return self.step(batch, memory)
        for held, value in zip(self.inputs, given, strict=True):
            held.copy_(value)
        self.graph.replay()
        return tuple(result.clone() for result in self.results)

    def _record(self, batch: Batch, memory: Tensor | None) -> None:
        self.inputs = [given.clone() for given in _tensors(batch, memory)]
        names = list(batch.tensors())
        held = Batch(**dict(zip(names, self.inputs[: len(names)], strict=True)))
        held_memory = None if memory is None else self.inputs[-1]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = self.step(held, held_memory)


def _tensors(batch: Batch, memory: Tensor | None) -> list[Tensor]:
    of_batch = list(batch.tensors().values())
    return of_batch if memory is None else [*of_batch, memory]
