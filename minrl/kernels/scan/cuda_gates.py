"""Tile functions of the Triton kernels: gates and their slopes, and the composition of steps.

A step maps a state m to m - weight * m + drive, its weight being the dropped share: 1 - z near 1 has fewer digits than
z, and a slowly decaying state accumulates the error. In the plain linear recurrence (P = 1) it is weight * m + drive. A
step that opens an episode drops m by selection, not by a product with zero, so that NaN ends there.

Shapes: a tile is (S, L), S steps and L lanes of the width; P parts of the gates (1: linear, 2: minGRU, 3:
minLSTM).
"""

# mypy: allow-untyped-decorators

import triton
import triton.language as tl


@triton.jit
def exponential(x: tl.tensor) -> tl.tensor:
    """Compute exp(x) by the GPU's instruction for powers of two."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def inverse(x: tl.tensor) -> tl.tensor:
    """Compute 1 / x for x from 1 to 1e19, without a division's checks for other values."""
    return tl.math.rsqrt(x * x)


@triton.jit
def sigmoid(x: tl.tensor) -> tl.tensor:
    """Return the sigmoid and its slope, both precise for large x of either sign."""
    small = exponential(-tl.abs(x))
    large = inverse(1.0 + small)
    return tl.where(x >= 0, large, small * large), small * large * large


@triton.jit
def hard_sigmoid(x: tl.tensor) -> tl.tensor:
    """Return the hard sigmoid and its slope."""
    share = tl.minimum(tl.maximum((x + 3.0) * 0.16666666666666666, 0.0), 1.0)
    return share, tl.where(tl.abs(x) <= 3.0, 0.16666666666666666, 0.0)


@triton.jit
def insert_share(first: tl.tensor, second: tl.tensor, parts: tl.constexpr, hard: tl.constexpr) -> tl.tensor:
    """Return the candidate's share of the new state, and its slopes by the first and the second gate.

    minGRU: z of the update gate. minLSTM: i' of the forget gate and the insert gate.
    """
    if parts == 2:
        if hard:
            share, slope = hard_sigmoid(first)
        else:
            share, slope = sigmoid(first)
        return share, slope, slope
    if hard:
        f, of_f = sigmoid(first)
        i, of_i = hard_sigmoid(second)
        scale = 1.0 / tl.maximum(f + i, 1e-30)
        share, kept = i * scale, f * scale
        return share, -share * (of_f * scale), kept * (of_i * scale)
    # i' / f' = (1 + exp(-f)) / (1 + exp(-i)). Where both gates are closed, only the exponentials' ratio counts:
    # exp(40) is so large that one more is lost in it, and so small that its square still fits float32.
    excess = tl.maximum(-tl.minimum(first, second) - 40.0, 0.0)
    f, i = exponential(-first - excess), exponential(-second - excess)
    scale = inverse((1.0 + f) + (1.0 + i))
    share, kept = (1.0 + f) * scale, (1.0 + i) * scale
    return share, -kept * (f * scale), share * (i * scale)


@triton.jit
def candidate_of(v: tl.tensor, candidate: tl.constexpr) -> tl.tensor:
    """Return the candidate g(v) and its slope."""
    if candidate == "linear":
        return v, v * 0.0 + 1.0
    if candidate == "tanh":
        share, slope = sigmoid(2.0 * v)
        return 2.0 * share - 1.0, 4.0 * slope
    share, slope = sigmoid(v)
    return tl.where(v >= 0, v + 0.5, share), tl.where(v >= 0, 1.0, slope)


@triton.jit
def kept(memory: tl.tensor, weight: tl.tensor, parts: tl.constexpr) -> tl.tensor:
    """Compute the part of a state that a step keeps."""
    return weight * memory if parts == 1 else memory - weight * memory


@triton.jit
def _linear_after(
    weight: tl.tensor, drive: tl.tensor, opens: tl.tensor, later: tl.tensor, add: tl.tensor, later_opens: tl.tensor
) -> tl.tensor:
    # The weight is not used where `opens` is set.
    return weight * later, add + tl.where(later_opens != 0, 0.0, later * drive), opens | later_opens


@triton.jit
def _gated_after(
    weight: tl.tensor, drive: tl.tensor, opens: tl.tensor, later: tl.tensor, add: tl.tensor, later_opens: tl.tensor
) -> tl.tensor:
    left = tl.where(later_opens != 0, 0.0, drive - later * drive)
    return weight + (later - weight * later), add + left, opens | later_opens


@triton.jit
def all_up_to(weight: tl.tensor, drive: tl.tensor, opens: tl.tensor, parts: tl.constexpr) -> tl.tensor:
    """Compute for each row of a tile the composition of all steps up to it, itself a step."""
    if parts == 1:
        return tl.associative_scan((weight, drive, opens), 0, _linear_after)
    return tl.associative_scan((weight, drive, opens), 0, _gated_after)


@triton.jit
def left_by(memory: tl.tensor, weight: tl.tensor, drive: tl.tensor, opens: tl.tensor, parts: tl.constexpr) -> tl.tensor:
    """Apply each step of `all_up_to` to the state (L,) that enters a tile: (S, L)."""
    return drive + tl.where(opens != 0, 0.0, kept(memory[None, :], weight, parts))


@triton.jit
def last_row(x: tl.tensor) -> tl.tensor:
    """Return the last row: (S, L) -> (L,)."""
    rows = tl.arange(0, x.shape[0])
    return tl.sum(tl.where((rows == x.shape[0] - 1)[:, None], x, 0), axis=0)


@triton.jit
def row_before(x: tl.tensor, first: tl.tensor) -> tl.tensor:
    """Return each row's predecessor; that of the first row is `first` (L,)."""
    rows = tl.arange(0, x.shape[0])
    before = tl.maximum(rows - 1, 0)[:, None] + tl.zeros(x.shape, tl.int32)
    return tl.where((rows == 0)[:, None], first[None, :], tl.gather(x, before, 0))
