"""Compiled work on rows of a matrix state, transposed: V rows of K lanes.

Four rows at a time are worked on: keys, queries and decays are then read, and their gradients summed, once for all
four.

Shapes: K features of a key, V of a value, L lanes, R rows.
"""

from typing import Any

import numpy as np

from minrl.kernels.jit.compile import inlined, summing
from minrl.kernels.jit.rows import copy_row

_ZERO = np.float32(0)
# Numba tests signed indices for counting from the end, which prevents vector code.
_U = np.uintp


@summing
def advance_one(s: Any, at: int, decay: Any, key: Any, query: Any, value: Any, lanes: int, before: bool) -> Any:
    """Compute row `at` of the next S in place; returns its product with the query."""
    found, first = query[0] * _ZERO, _U(at)
    for d in range(_U(lanes)):
        old = s[first + d]
        new = decay[d] * old + value * key[d]
        s[first + d] = new
        found += query[d] * (old if before else new)
    return found


@summing
def advance_four(
    s: Any, t: Any, u: Any, w: Any, at: int, decay: Any, key: Any, query: Any, v0: Any, v1: Any, v2: Any, v3: Any,
    lanes: int, before: bool,
) -> Any:  # fmt: skip
    """Compute `advance_one` of four rows, with four names for S: numba takes only arguments as disjoint."""
    nothing = query[0] * _ZERO
    y0, y1, y2, y3 = nothing, nothing, nothing, nothing
    first, second, third, fourth = _U(at), _U(at + lanes), _U(at + 2 * lanes), _U(at + 3 * lanes)
    for d in range(_U(lanes)):
        a, k, q = decay[d], key[d], query[d]
        s0, s1, s2, s3 = s[first + d], t[second + d], u[third + d], w[fourth + d]
        n0, n1, n2, n3 = a * s0 + v0 * k, a * s1 + v1 * k, a * s2 + v2 * k, a * s3 + v3 * k
        s[first + d], t[second + d], u[third + d], w[fourth + d] = n0, n1, n2, n3
        y0 += q * (s0 if before else n0)
        y1 += q * (s1 if before else n1)
        y2 += q * (s2 if before else n2)
        y3 += q * (s3 if before else n3)
    return y0, y1, y2, y3


@inlined
def next_row(s: Any, new: Any, decay: Any, key: Any, value: Any, lanes: int) -> None:
    """Compute one row of the next S."""
    for d in range(lanes):
        new[d] = decay[d] * s[d] + value * key[d]


@summing
def gradients_one(
    g: Any, s: Any, at: int, decay: Any, key: Any, query: Any, dy: Any, value: Any,
    of_query: Any, of_key: Any, of_decay: Any, lanes: int, before: bool,
) -> Any:  # fmt: skip
    """Take row `at` of the gradient to S_t to that to S_{t-1}, which is `s`; returns the gradient to the value.

    Sums over rows: dy * S_{t-1} to `of_query`, value * G to `of_key`, G * S_{t-1} to `of_decay`.
    """
    of_value, first = dy * _ZERO, _U(at)
    for d in range(_U(lanes)):
        total, old = g[first + d], s[first + d]
        if not before:
            total += dy * query[d]
        of_value += total * key[d]
        of_query[d] += dy * old
        of_key[d] += value * total
        of_decay[d] += total * old
        total *= decay[d]
        g[first + d] = total + dy * query[d] if before else total
    return of_value


@summing
def gradients_four(
    g: Any, h: Any, i: Any, j: Any, s: Any, at: int, decay: Any, key: Any, query: Any,
    dy0: Any, dy1: Any, dy2: Any, dy3: Any, v0: Any, v1: Any, v2: Any, v3: Any,
    of_query: Any, of_key: Any, of_decay: Any, lanes: int, before: bool,
) -> Any:  # fmt: skip
    """Compute `gradients_one` of four rows."""
    nothing = dy0 * _ZERO
    x0, x1, x2, x3 = nothing, nothing, nothing, nothing
    first, second, third, fourth = _U(at), _U(at + lanes), _U(at + 2 * lanes), _U(at + 3 * lanes)
    for d in range(_U(lanes)):
        a, k, q = decay[d], key[d], query[d]
        s0, s1, s2, s3 = s[first + d], s[second + d], s[third + d], s[fourth + d]
        g0, g1, g2, g3 = g[first + d], h[second + d], i[third + d], j[fourth + d]
        if not before:
            g0, g1, g2, g3 = g0 + dy0 * q, g1 + dy1 * q, g2 + dy2 * q, g3 + dy3 * q
        x0 += g0 * k
        x1 += g1 * k
        x2 += g2 * k
        x3 += g3 * k
        of_query[d] += (dy0 * s0 + dy1 * s1) + (dy2 * s2 + dy3 * s3)
        of_key[d] += (v0 * g0 + v1 * g1) + (v2 * g2 + v3 * g3)
        of_decay[d] += (g0 * s0 + g1 * s1) + (g2 * s2 + g3 * s3)
        g0, g1, g2, g3 = g0 * a, g1 * a, g2 * a, g3 * a
        if before:
            g0, g1, g2, g3 = g0 + dy0 * q, g1 + dy1 * q, g2 + dy2 * q, g3 + dy3 * q
        g[first + d], h[second + d], i[third + d], j[fourth + d] = g0, g1, g2, g3
    return x0, x1, x2, x3


@inlined
def turned(x: Any, y: Any, rows: int, lanes: int) -> None:
    """Transpose x (R, L) -> y (L, R)."""
    for r in range(rows):
        for d in range(lanes):
            y[d * rows + r] = x[r * lanes + d]


@inlined
def decay_of(decay: Any, at: int, lanes: int, features: int, into: Any) -> None:
    """Copy the decays of a step, one for each lane."""
    if features == 1:
        into[:lanes] = decay[at]
    else:
        copy_row(decay[at : at + lanes], into, lanes)


@inlined
def query_gradient(
    into: Any, of_query: Any, decay: Any, key: Any, product: Any, lanes: int, adds: bool, before: bool
) -> None:
    """Compute from the sum of dy * S_{t-1} that of dy * S_t, where that is what the query read."""
    for d in range(lanes):
        found = of_query[d] if before else decay[d] * of_query[d] + product * key[d]
        into[d] = into[d] + found if adds else found


@inlined
def key_gradient(into: Any, of_key: Any, lanes: int, adds: bool) -> None:
    for d in range(lanes):
        into[d] = into[d] + of_key[d] if adds else of_key[d]


@summing
def total(x: Any, lanes: int) -> Any:
    found = x[0] * _ZERO
    for d in range(lanes):
        found += x[d]
    return found


@summing
def inner(x: Any, y: Any, lanes: int) -> Any:
    found = x[0] * _ZERO
    for d in range(lanes):
        found += x[d] * y[d]
    return found
