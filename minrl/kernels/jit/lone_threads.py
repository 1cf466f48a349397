"""Threads in which torch works alone: each goes through its share of a batch without waiting for the others.

Torch shares out every operation by itself, and its threads meet again at the end of each. Where a share is many small
operations in a row, that costs more than it brings.
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
    """Return True if torch counts threads for each thread apart, as it does with OpenMP."""
    return bool(torch.backends.openmp.is_available())


def each(work: Callable[[Share], Result], shares: Sequence[Share]) -> list[Result]:
    """Return `work` of each share, without gradients, in a thread of its own where there are several."""
    if len(shares) == 1:
        return [work(shares[0])]
    infers = torch.is_inference_mode_enabled()

    def run(share: Share) -> Result:
        # A thread starts with modes of its own.
        with torch.inference_mode(infers), torch.no_grad():
            return work(share)

    return list(_pool(len(shares)).map(run, shares))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    wanted, meeting = torch.get_num_threads(), threading.Barrier(threads)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # from here on it stays, whatever other threads set
        meeting.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="minrl-alone", initializer=begin)
    list(pool.map(int, range(threads)))
    torch.set_num_threads(wanted)  # what the next new thread starts with
    return pool


if hasattr(os, "register_at_fork"):
    # A child process has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
