"""The compiled loops of a recurrence of matrices on a CPU, and the adjoint: S_t = diag(decay_t) S_{t-1} + k_t v_t^T.

A matrix lies transposed, as V rows of K lanes (see `cpu_rows`). Tensors are read and written where torch keeps them,
through their addresses; an address of 0 is one that is not there. One call does all steps of the batch rows `first` to
`end`.

Shapes: B batch, T time, H heads, K features of a key, V of a value; N chunks.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import allocating, compiled, inlined
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import copy_row
from minrl.kernels.lstm.cpu_loops import opens
from minrl.kernels.matrix.cpu_rows import (
    advance_four,
    advance_one,
    decay_of,
    gradients_four,
    gradients_one,
    inner,
    key_gradient,
    next_row,
    query_gradient,
    total,
    turned,
)

# Steps of a chunk, whose matrices the backward pass recomputes: with K = V = 64 half of the second cache.
CHUNK = 32
_ZERO = np.float32(0)


@allocating
def forward_head(
    query: Any, key: Any, value: Any, decay: Any, state: Any, reset: Any, y: Any, last: Any, entering: Any,
    row: int, head: int, steps: int, heads: int, lanes: int, width: int,
    of_query: int, of_key: int, features: int, before: bool,
) -> None:  # fmt: skip
    size, item = lanes * width, row * heads + head
    s, a = np.zeros(size, y.dtype), np.empty(lanes, y.dtype)
    if state.size:
        turned(state[item * size : (item + 1) * size], s, lanes, width)
    chunks, fours = (steps + CHUNK - 1) // CHUNK, width // 4 * 4
    for t in range(steps):
        step = row * steps + t
        if entering.size and t % CHUNK == 0:
            at = (item * chunks + t // CHUNK) * size
            copy_row(s, entering[at : at + size], size)
        if opens(reset, step):
            s[:] = _ZERO
        decay_of(decay, (step * heads + head) * features, lanes, features, a)
        q_at, k_at = (step * of_query + head % of_query) * lanes, (step * of_key + head % of_key) * lanes
        q, k = query[q_at : q_at + lanes], key[k_at : k_at + lanes]
        here = (step * heads + head) * width
        for v in range(0, fours, 4):
            at = here + v
            y[at], y[at + 1], y[at + 2], y[at + 3] = advance_four(
                s, s, s, s, v * lanes, a, k, q, value[at], value[at + 1], value[at + 2], value[at + 3], lanes, before
            )
        for v in range(fours, width):
            y[here + v] = advance_one(s, v * lanes, a, k, q, value[here + v], lanes, before)
    turned(s, last[item * size : (item + 1) * size], width, lanes)


@inlined
def history_of(
    key: Any, value: Any, decay: Any, reset: Any, entering: Any, past: Any, decays: Any,
    row: int, head: int, start: int, end: int, steps: int, heads: int, lanes: int, width: int, of_key: int,
    features: int,
) -> None:  # fmt: skip
    """Recompute the matrix before each step of a chunk, and its decays."""
    size, item = lanes * width, row * heads + head
    at = (item * ((steps + CHUNK - 1) // CHUNK) + start // CHUNK) * size
    copy_row(entering[at : at + size], past[:size], size)
    for t in range(start, end):
        step, now = row * steps + t, (t - start) * size
        if opens(reset, step):
            past[now : now + size] = _ZERO
        a = decays[(t - start) * lanes : (t - start + 1) * lanes]
        decay_of(decay, (step * heads + head) * features, lanes, features, a)
        if t + 1 < end:
            k_at = (step * of_key + head % of_key) * lanes
            for v in range(width):
                at = now + v * lanes
                next_row(
                    past[at : at + lanes], past[at + size : at + size + lanes], a, key[k_at : k_at + lanes],
                    value[(step * heads + head) * width + v], lanes,
                )  # fmt: skip


@allocating
def backward_head(
    query: Any, key: Any, value: Any, decay: Any, reset: Any, entering: Any, dy: Any, dlast: Any,
    dquery: Any, dkey: Any, dvalue: Any, ddecay: Any, dstate: Any, past: Any, decays: Any,
    row: int, head: int, steps: int, heads: int, lanes: int, width: int,
    of_query: int, of_key: int, features: int, before: bool,
) -> None:  # fmt: skip
    size, item, fours = lanes * width, row * heads + head, width // 4 * 4
    g, nothing = np.zeros(size, value.dtype), np.zeros(width, value.dtype)
    to_query, to_key, to_decay = np.empty(lanes, g.dtype), np.empty(lanes, g.dtype), np.empty(lanes, g.dtype)
    if dlast.size:
        turned(dlast[item * size : (item + 1) * size], g, lanes, width)
    for chunk in range((steps + CHUNK - 1) // CHUNK - 1, -1, -1):
        start, end = chunk * CHUNK, min(steps, chunk * CHUNK + CHUNK)
        history_of(
            key, value, decay, reset, entering, past, decays, row, head, start, end, steps, heads, lanes, width,
            of_key, features,
        )  # fmt: skip
        for t in range(end - 1, start - 1, -1):
            step = row * steps + t
            here, a_at = (step * heads + head) * width, (step * heads + head) * features
            q_at, k_at = (step * of_query + head % of_query) * lanes, (step * of_key + head % of_key) * lanes
            q, k, a = query[q_at : q_at + lanes], key[k_at : k_at + lanes], decays[(t - start) * lanes :]
            v, found = value[here : here + width], dvalue[here : here + width]
            given = dy[here : here + width] if dy.size else nothing[:]
            s = past[(t - start) * size : (t - start + 1) * size]
            to_query[:], to_key[:], to_decay[:] = _ZERO, _ZERO, _ZERO
            for i in range(0, fours, 4):
                found[i], found[i + 1], found[i + 2], found[i + 3] = gradients_four(
                    g, g, g, g, s, i * lanes, a, k, q, given[i], given[i + 1], given[i + 2], given[i + 3],
                    v[i], v[i + 1], v[i + 2], v[i + 3], to_query, to_key, to_decay, lanes, before,
                )  # fmt: skip
            for i in range(fours, width):
                found[i] = gradients_one(
                    g, s, i * lanes, a, k, q, given[i], v[i], to_query, to_key, to_decay, lanes, before
                )
            product = _ZERO * g[0] if before else inner(given, v, width)
            query_gradient(
                dquery[q_at : q_at + lanes], to_query, a, k, product, lanes, of_query < heads and head > 0, before
            )
            key_gradient(dkey[k_at : k_at + lanes], to_key, lanes, of_key < heads and head > 0)
            if features == 1:
                ddecay[a_at] = total(to_decay, lanes)
            else:
                copy_row(to_decay, ddecay[a_at : a_at + lanes], lanes)
            if opens(reset, step):
                g[:] = _ZERO
    if dstate.size:
        turned(g, dstate[item * size : (item + 1) * size], width, lanes)


@cache
def forward(reads_before: bool) -> Callable[..., None]:
    """Build the kernel of query, key, value, decay, state, reset -> y (B, T, H, V) and the last matrix (B, H, K, V).

    `entering` (B, H, N, V, K) saves the matrix that enters each chunk for the backward pass.
    """
    before = reads_before

    def kernel(
        query_at: int, key_at: int, value_at: int, decay_at: int, state_at: int, reset_at: int, y_at: int,
        last_at: int, entering_at: int, first: int, end: int, batch: int, steps: int, heads: int, lanes: int,
        width: int, of_query: int, of_key: int, features: int, like: Any,
    ) -> None:  # fmt: skip
        rows, size = batch * steps, batch * heads * lanes * width
        query, key = vector(query_at, rows * of_query * lanes, like), vector(key_at, rows * of_key * lanes, like)
        value, decay = vector(value_at, rows * heads * width, like), vector(decay_at, rows * heads * features, like)
        state, reset = vector(state_at, size, like), vector(reset_at, rows, np.uint8(0))
        y, last = vector(y_at, rows * heads * width, like), vector(last_at, size, like)
        entering = vector(entering_at, size * ((steps + CHUNK - 1) // CHUNK), like)
        for row in range(first, end):
            for head in range(heads):
                forward_head(
                    query, key, value, decay, state, reset, y, last, entering, row, head, steps, heads, lanes, width,
                    of_query, of_key, features, before,
                )  # fmt: skip

    return compiled(kernel)


@cache
def backward(reads_before: bool) -> Callable[..., None]:
    """Build the kernel from the gradients to y and last matrix to those to query, key, value, decay and state."""
    before = reads_before

    def kernel(
        query_at: int, key_at: int, value_at: int, decay_at: int, reset_at: int, entering_at: int, dy_at: int,
        dlast_at: int, dquery_at: int, dkey_at: int, dvalue_at: int, ddecay_at: int, dstate_at: int,
        first: int, end: int, batch: int, steps: int, heads: int, lanes: int,
        width: int, of_query: int, of_key: int, features: int, like: Any,
    ) -> None:  # fmt: skip
        rows, size = batch * steps, batch * heads * lanes * width
        query, key = vector(query_at, rows * of_query * lanes, like), vector(key_at, rows * of_key * lanes, like)
        value, decay = vector(value_at, rows * heads * width, like), vector(decay_at, rows * heads * features, like)
        reset = vector(reset_at, rows, np.uint8(0))
        entering = vector(entering_at, size * ((steps + CHUNK - 1) // CHUNK), like)
        dy, dlast = vector(dy_at, rows * heads * width, like), vector(dlast_at, size, like)
        dquery, dkey = vector(dquery_at, rows * of_query * lanes, like), vector(dkey_at, rows * of_key * lanes, like)
        dvalue, ddecay = vector(dvalue_at, rows * heads * width, like), vector(ddecay_at, rows * heads * features, like)
        dstate = vector(dstate_at, size, like)
        past, decays = np.empty(CHUNK * lanes * width, value.dtype), np.empty(CHUNK * lanes, value.dtype)
        for row in range(first, end):
            for head in range(heads):
                backward_head(
                    query, key, value, decay, reset, entering, dy, dlast, dquery, dkey, dvalue, ddecay, dstate,
                    past, decays, row, head, steps, heads, lanes, width, of_query, of_key, features, before,
                )  # fmt: skip

    return compiled(kernel)
