"""The compiled loops of the CPU kernels: gates, recurrence and resets in one pass over memory, and its adjoint.

Time runs inside, and a block of lanes of the width keeps its memory in the first cache. One call does the rows
`first` to `last` of B * N; empty arrays stand for a state, reset or gradient that is not there.

Shapes: B batch, T time, D width, L lanes of a block, N blocks of the width, P parts of the gates (2 or 3).
"""

from typing import Any

import numpy as np

from minrl.kernels.cpu_math import compiled, exponential, inlined, prefetch_read, prefetch_write

LANES = 64
CANDIDATES = {"positive": 0, "tanh": 1, "linear": 2}
# How many steps ahead memory is asked for.
_AHEAD = 8
_CACHE_LINE = 16  # in float32


def _enter(memory: Any, state: Any, at: int, lanes: int) -> None:
    """What enters the first step (or, backward, leaves the last)."""
    if state.size:
        for d in range(lanes):
            memory[d] = state[at + d]
    else:
        for d in range(lanes):
            memory[d] = 0


def _shares(gates: Any, at: int, width: int, parts: int, insert: Any, keep: Any, lanes: int) -> None:
    """How much of the candidate goes in and, unsigned, of the memory stays: minGRU's z, 1 - z or minLSTM's i', f'."""
    one = insert.dtype.type(1)
    if parts == 2:
        update = gates[at : at + lanes]
        for d in range(lanes):
            shut = exponential(-update[d])
            share = one / (one + shut)
            insert[d] = share
            keep[d] = shut * share
    else:
        forget = gates[at : at + lanes]
        accept = gates[at + width : at + width + lanes]
        for d in range(lanes):
            # f' / i' = (1 + exp(-i)) / (1 + exp(-f)), scaled so that the largest exponential is 1.
            f, i = -forget[d], -accept[d]
            largest = max(max(f, i), f * 0)
            unit, f, i = exponential(-largest), exponential(f - largest), exponential(i - largest)
            scale = one / (unit + f + unit + i)
            insert[d] = (unit + f) * scale
            keep[d] = (unit + i) * scale
