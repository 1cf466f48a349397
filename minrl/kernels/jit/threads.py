"""Split a kernel's items among torch's number of threads, and sum over rows in each thread.

Shapes: R threads, C columns.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Below this number of elements a second thread costs more than it saves.
ELEMENTS_PER_THREAD = 1 << 15
# Rows of one item, summed apart from other items: long sums of float32 lose digits.
ROWS_PER_ITEM = 64


@cache
def thread_pool() -> ThreadPoolExecutor:
    """Return the pool of threads that run items of kernels."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="minrl-scan")


if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=thread_pool.cache_clear)


def items_of(rows: int) -> int:
    """Return the number of a kernel's items for `rows` rows."""
    return -(-rows // ROWS_PER_ITEM)


def thread_count(items: int, elements: int, per_thread: int = ELEMENTS_PER_THREAD) -> int:
    """Return the number of threads for `items` items over `elements` elements, at least `per_thread` each."""
    return max(1, min(torch.get_num_threads(), items, elements // per_thread))


def share_items(
    run: Callable[[int, int, int], None], items: int, elements: int, per_thread: int = ELEMENTS_PER_THREAD
) -> None:
    """Call `run(thread, first, end)` on each thread with its range of the items."""
    threads = thread_count(items, elements, per_thread)
    if threads == 1:
        run(0, 0, items)
        return
    cuts = [items * i // threads for i in range(threads + 1)]
    others: list[Future[None]] = []
    try:
        others.extend(thread_pool().submit(run, i, cuts[i], cuts[i + 1]) for i in range(1, threads))
        run(0, 0, cuts[1])
        for other in others:
            other.result()
    except BaseException:
        wait(others)  # they write to memory that the caller would free, also where a signal's handler raises
        raise


def share(kernel: Callable[..., None], items: int, elements: int, *arguments: Any) -> None:
    """Call `kernel(first, end, *arguments)` on each thread with its range of the items."""
    share_items(lambda thread, first, end: kernel(first, end, *arguments), items, elements)


def share_rows(kernel: Callable[..., None], x: Tensor, *arguments: Any) -> None:
    """Call `kernel(first, end, *arguments)` on each thread with its range of the items of the rows of x (N, ...)."""
    share(kernel, items_of(x.shape[0]), x.numel(), *arguments)


class Sums:
    """Gradients that are sums over rows: tensors of `sizes` elements, complete after `add_up`.

    Args:
        sizes: elements of each part.
        rows: a tensor (N, ...) of the summed rows' number and type.
    """

    def __init__(self, sizes: tuple[int, ...], rows: Tensor) -> None:
        most = rows.shape[0] * max(sizes)  # upper bound of a kernel's elements and items
        self._of_threads = rows.new_zeros(thread_count(most, most), sum(sizes))  # (R, C)
        self._stride = self._of_threads.shape[1] * rows.element_size()
        self.parts = list(self._of_threads[0].split(sizes))

    def share(self, kernel: Callable[..., None], part: int, items: int, elements: int, *arguments: Any) -> None:
        """Run a kernel on all threads; its third argument is the address of the sums from `part` on."""
        at, stride = self.parts[part].data_ptr(), self._stride
        share_items(lambda thread, first, end: kernel(first, end, at + thread * stride, *arguments), items, elements)

    def share_rows(self, kernel: Callable[..., None], part: int, x: Tensor, *arguments: Any) -> None:
        """Share a kernel as `share` does, over the items of the rows of x (N, ...)."""
        self.share(kernel, part, items_of(x.shape[0]), x.numel(), *arguments)

    def add_up(self) -> None:
        """Add the other threads' sums to the first's."""
        if self._of_threads.shape[0] > 1:
            self._of_threads[0] += self._of_threads[1:].sum(0)
