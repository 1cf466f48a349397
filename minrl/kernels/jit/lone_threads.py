"""Threads with single-threaded torch: each runs its share of a batch without waiting for the others.

Torch splits every operation among its threads and synchronises them after each. For many small operations in a row
that costs more than it saves.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Share = TypeVar("Share")
Result = TypeVar("Result")


def available() -> bool:
    """Return True if torch's number of threads is a setting of each thread, as with OpenMP."""
    return bool(torch.backends.openmp.is_available())


def each(work: Callable[[Share], Result], shares: Sequence[Share]) -> list[Result]:
    """Return `work(share)` of each share, without gradients, in a thread each if there are several."""
    if len(shares) == 1:
        return [work(shares[0])]
    infers = torch.is_inference_mode_enabled()

    def run(share: Share) -> Result:
        # A thread does not inherit its creator's modes.
        with torch.inference_mode(infers), torch.no_grad():
            return work(share)

    return list(_pool(len(shares)).map(run, shares))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    wanted, meeting = torch.get_num_threads(), threading.Barrier(threads)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # fixes this thread's number, whatever others set later
        meeting.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="minrl-alone", initializer=begin)
    list(pool.map(int, range(threads)))
    torch.set_num_threads(wanted)  # the initial value of new threads
    return pool


if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
