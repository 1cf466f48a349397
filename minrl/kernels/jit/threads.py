"""Running the compiled loops of a block on as many threads as torch has, and adding up what each has summed.

Shapes: R threads, C columns.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minrl.kernels.backbone.loops import PIECE
from minrl.kernels.scan import cpu


def pieces(rows: int) -> int:
    """How many items of a kernel so many rows are."""
    return -(-rows // PIECE)


def share(kernel: Callable[..., None], items: int, numbers: int, *arguments: Any) -> None:
    """Share the items of a kernel that goes over so many numbers."""
    _share(lambda thread, first, end: kernel(first, end, *arguments), items, numbers)


class Sums:
    """Gradients that are sums over the rows of what is like `rows`: `parts` of `sizes`, whole after `add_up`."""

    def __init__(self, sizes: tuple[int, ...], rows: Tensor) -> None:
        most = rows.shape[0] * max(sizes)  # numbers, and items, of a kernel
        threads = _threads(most, most)
        self._room = rows.new_zeros(threads, sum(sizes))  # (R, C)
        self._stride = self._room.shape[1] * rows.element_size()
        self.parts = list(self._room[0].split(sizes))

    def share(self, kernel: Callable[..., None], part: int, items: int, numbers: int, *arguments: Any) -> None:
        """As `share`, for a kernel that adds to part number `part` and those after it."""
        at, stride = self.parts[part].data_ptr(), self._stride
        _share(lambda thread, first, end: kernel(first, end, at + thread * stride, *arguments), items, numbers)

    def add_up(self) -> None:
        """Add what the other threads have summed to what the first has."""
        if self._room.shape[0] > 1:
            self._room[0] += self._room[1:].sum(0)


def _share(run: Callable[[int, int, int], None], items: int, numbers: int) -> None:
    """Call `run` with the number of a thread and its first and last but one item, on each thread."""
    threads = _threads(items, numbers)
    if threads == 1:
        run(0, 0, items)
        return
    cuts = [items * i // threads for i in range(threads + 1)]
    others = [cpu.thread_pool().submit(run, i, cuts[i], cuts[i + 1]) for i in range(1, threads)]
    run(0, 0, cuts[1])
    for other in others:
        other.result()


def _threads(items: int, numbers: int) -> int:
    return max(1, min(torch.get_num_threads(), items, numbers // cpu.NUMBERS_PER_THREAD))
