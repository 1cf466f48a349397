"""The Triton kernels of the recurrences: gates, resets and recurrence in one pass over memory, and its adjoint.

A program has a block of lanes of one sequence. It goes through time tile by tile: the steps of a tile are scanned in
parallel, and a float32 state is carried from tile to tile. With few sequences time is cut into chunks: first the
`_totals` kernels write the composition of all steps of a chunk, then each program computes the state that enters its
chunk from the totals of the chunks before it (backward: after it).

Shapes: B batch, T time, D width, N chunks, P parts of the gates (1: linear, 2: minGRU, 3: minLSTM); tiles (S, L).
"""

# mypy: allow-untyped-decorators

import triton
import triton.language as tl

from minrl.kernels.scan.cuda_gates import all_up_to, candidate_of, insert_share, kept, last_row, left_by, row_before

# Lengths vary from batch to batch and must not trigger a compilation.
_ANY = ["steps", "length", "plane"]


@triton.jit
def _place(width: tl.tensor, LANES: tl.constexpr) -> tl.tensor:
    """Return the sequence (int64: offsets may pass 2^31), the lanes, and the mask of those within the width."""
    blocks = tl.cdiv(width, LANES)
    lanes = tl.program_id(0) % blocks * LANES + tl.arange(0, LANES)
    return (tl.program_id(0) // blocks).to(tl.int64), lanes, lanes < width


@triton.jit
def _bounds(steps: tl.tensor, length: tl.tensor) -> tl.tensor:
    """Return the first step of this program's chunk and the one after its last."""
    begin = tl.program_id(1) * length
    return begin, tl.minimum(begin + length, steps)


@triton.jit
def _row(x: tl.tensor, sequence: tl.tensor, width: tl.tensor, lanes: tl.tensor, there: tl.tensor) -> tl.tensor:
    """Load (L,) of x (B, D); zero without x."""
    row = tl.zeros(lanes.shape, tl.float32)
    if x is not None:
        row += tl.load(x + sequence * width + lanes, mask=there, other=0.0)
    return row


@triton.jit
def _opens(reset: tl.tensor, rows: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Load resets (S, L): 1 where a step opens an episode."""
    opens = tl.zeros(mask.shape, tl.int32)
    if reset is not None:
        opens += tl.load(reset + rows, mask=mask, other=0).to(tl.int32)
    return opens


@triton.jit
def _gates(gates: tl.tensor, width: tl.tensor, mask: tl.tensor, PARTS: tl.constexpr, HARD: tl.constexpr) -> tl.tensor:
    """Return the candidate's share and its slopes; zero outside the mask."""
    first = tl.load(gates, mask=mask, other=0.0).to(tl.float32)
    second = first
    if PARTS == 3:
        second = tl.load(gates + width, mask=mask, other=0.0).to(tl.float32)
    share, slope, other_slope = insert_share(first, second, PARTS, HARD)
    return tl.where(mask, share, 0.0), slope, other_slope


@triton.jit
def _candidate(
    gates: tl.tensor, width: tl.tensor, mask: tl.tensor, PARTS: tl.constexpr, CANDIDATE: tl.constexpr
) -> tl.tensor:
    return candidate_of(tl.load(gates + (PARTS - 1) * width, mask=mask, other=0.0).to(tl.float32), CANDIDATE)


@triton.jit
def _step(
    gates: tl.tensor, drive: tl.tensor, width: tl.tensor, mask: tl.tensor,
    PARTS: tl.constexpr, CANDIDATE: tl.constexpr, SIGNED: tl.constexpr, HARD: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the weight and the drive of each step; the identity outside the mask."""
    if PARTS == 1:
        weight = tl.load(gates, mask=mask, other=1.0).to(tl.float32)
        add = tl.load(drive, mask=mask, other=0.0).to(tl.float32)
    else:
        share, _, _ = _gates(gates, width, mask, PARTS, HARD)
        content, _ = _candidate(gates, width, mask, PARTS, CANDIDATE)
        weight = 2.0 * share if SIGNED else share
        add = share * content
    return weight, add


@triton.jit
def _step_back(
    gates: tl.tensor, dh: tl.tensor, width: tl.tensor, mask: tl.tensor, opens: tl.tensor,
    PARTS: tl.constexpr, SIGNED: tl.constexpr, HARD: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return weight, drive and dh of each step of the gradient's recurrence, and the gates' share and slopes."""
    given = tl.load(dh, mask=mask, other=0.0).to(tl.float32)
    if PARTS == 1:
        weight = tl.load(gates, mask=mask, other=1.0).to(tl.float32)
        share, slope, other_slope = weight, weight, weight
    else:
        share, slope, other_slope = _gates(gates, width, mask, PARTS, HARD)
        weight = 2.0 * share if SIGNED else share
    return weight, tl.where(opens != 0, 0.0, kept(given, weight, PARTS)), given, share, slope, other_slope


@triton.jit
def _enter(
    memory: tl.tensor, totals: tl.tensor, plane: tl.tensor, apart: tl.tensor, count: tl.tensor, there: tl.tensor,
    PARTS: tl.constexpr, ROWS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the state after `count` chunks whose totals (L,) begin at `totals` and are `apart` apart."""
    rows = tl.arange(0, ROWS)
    for chunk in range(0, count, ROWS):
        mask = (chunk + rows < count)[:, None] & there[None, :]
        at = totals[None, :] + (chunk + rows)[:, None] * apart
        weight = tl.load(at, mask=mask, other=1.0 if PARTS == 1 else 0.0)
        drive = tl.load(at + plane, mask=mask, other=0.0)
        opens = tl.load(at + 2 * plane, mask=mask, other=0.0).to(tl.int32)
        weight, drive, opens = all_up_to(weight, drive, opens, PARTS)
        memory = last_row(left_by(memory, weight, drive, opens, PARTS))
    return memory


@triton.jit
def _nothing(LANES: tl.constexpr, PARTS: tl.constexpr) -> tl.tensor:
    """Return the identity, the total (L,) of no steps."""
    total = tl.full([LANES], 1.0 if PARTS == 1 else 0.0, tl.float32)
    return total, tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.int32)


@triton.jit
def _and_then(
    total: tl.tensor, drive: tl.tensor, opens: tl.tensor, tile: tl.tensor, tile_drive: tl.tensor,
    tile_opens: tl.tensor, PARTS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Combine the total (L,) of the steps so far with that of a tile from `all_up_to`."""
    drive = last_row(left_by(drive, tile, tile_drive, tile_opens, PARTS))
    tile = last_row(tile)
    both = total * tile if PARTS == 1 else total + kept(tile, total, PARTS)
    return both, drive, opens | last_row(tile_opens)


@triton.jit
def _write_total(
    totals: tl.tensor, plane: tl.tensor, there: tl.tensor, total: tl.tensor, drive: tl.tensor, opens: tl.tensor
) -> None:
    tl.store(totals, total, mask=there)
    tl.store(totals + plane, drive, mask=there)
    tl.store(totals + 2 * plane, opens.to(tl.float32), mask=there)


@triton.jit(do_not_specialize=_ANY)
def forward(
    gates: tl.tensor, drive: tl.tensor, state: tl.tensor, reset: tl.tensor, totals: tl.tensor, h: tl.tensor,
    last: tl.tensor, steps: tl.tensor, width: tl.tensor, length: tl.tensor, plane: tl.tensor,
    PARTS: tl.constexpr, CANDIDATE: tl.constexpr, SIGNED: tl.constexpr, HARD: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """Compute from gates (B, T, P * D), or decay and drive (B, T, D), to h (B, T, D) and the last state (B, D)."""
    sequence, lanes, there = _place(width, LANES)
    begin, end = _bounds(steps, length)
    memory = _row(state, sequence, width, lanes, there)
    if totals is not None:
        first = totals + sequence * tl.num_programs(1) * width + lanes
        memory = _enter(memory, first, plane, width, tl.program_id(1), there, PARTS, ROWS)
    rows = tl.arange(0, ROWS)[:, None]
    for t in tl.range(begin, end, ROWS, num_stages=STAGES):
        mask = (t + rows < end) & there[None, :]
        at = sequence * steps + t
        of_gates = gates + at * (width * PARTS) + rows * (width * PARTS) + lanes[None, :]
        of_drive = drive if drive is None else drive + at * width + rows * width + lanes[None, :]
        weight, add = _step(of_gates, of_drive, width, mask, PARTS, CANDIDATE, SIGNED, HARD)
        weight, add, opens = all_up_to(weight, add, _opens(reset, at + rows, mask), PARTS)
        left = left_by(memory, weight, add, opens, PARTS)
        tl.store(h + at * width + rows * width + lanes[None, :], left.to(h.dtype.element_ty), mask=mask)
        memory = last_row(left)
    if end == steps:
        tl.store(last + sequence * width + lanes, memory, mask=there)


@triton.jit(do_not_specialize=_ANY)
def forward_totals(
    gates: tl.tensor, drive: tl.tensor, reset: tl.tensor, totals: tl.tensor, steps: tl.tensor, width: tl.tensor,
    length: tl.tensor, plane: tl.tensor,
    PARTS: tl.constexpr, CANDIDATE: tl.constexpr, SIGNED: tl.constexpr, HARD: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the totals (3, B, N, D) of the chunks of `forward`, except for the last."""
    sequence, lanes, there = _place(width, LANES)
    begin, end = _bounds(steps, length)
    total, done, opened = _nothing(LANES, PARTS)
    rows = tl.arange(0, ROWS)[:, None]
    for t in tl.range(begin, end, ROWS, num_stages=STAGES):
        mask = (t + rows < end) & there[None, :]
        at = sequence * steps + t
        of_gates = gates + at * (width * PARTS) + rows * (width * PARTS) + lanes[None, :]
        of_drive = drive if drive is None else drive + at * width + rows * width + lanes[None, :]
        weight, add = _step(of_gates, of_drive, width, mask, PARTS, CANDIDATE, SIGNED, HARD)
        weight, add, opens = all_up_to(weight, add, _opens(reset, at + rows, mask), PARTS)
        total, done, opened = _and_then(total, done, opened, weight, add, opens, PARTS)
    chunks = tl.num_programs(1) + 1
    _write_total(totals + (sequence * chunks + tl.program_id(1)) * width + lanes, plane, there, total, done, opened)


@triton.jit(do_not_specialize=_ANY)
def backward(
    gates: tl.tensor, state: tl.tensor, reset: tl.tensor, h: tl.tensor, dh: tl.tensor, dlast: tl.tensor,
    totals: tl.tensor, dgates: tl.tensor, ddrive: tl.tensor, dstate: tl.tensor,
    steps: tl.tensor, width: tl.tensor, length: tl.tensor, plane: tl.tensor,
    PARTS: tl.constexpr, CANDIDATE: tl.constexpr, SIGNED: tl.constexpr, HARD: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the adjoint of `forward`, from the last step to the first; gates are recomputed.

    With G_t the total gradient to h_t: G_t = dh_t + P_{t+1}, P_t = decay_t * G_t, zero at resets. G and P are float32.
    h_{t-1} is read in the precision of h (the initial state in float32): its one rounding enters only the product
    with the candidate.
    """
    sequence, lanes, there = _place(width, LANES)
    begin, end = _bounds(steps, length)
    onward = _row(dlast, sequence, width, lanes, there)
    if totals is not None:
        chunks = tl.num_programs(1)
        first = totals + (sequence * chunks + chunks - 1) * width + lanes
        onward = _enter(onward, first, plane, -width, chunks - 1 - tl.program_id(1), there, PARTS, ROWS)
    initial = _row(state, sequence, width, lanes, there)
    rows = tl.arange(0, ROWS)[:, None]
    for tile in tl.range(0, end - begin, ROWS, num_stages=STAGES):
        t = end - 1 - tile
        mask = (t - rows >= begin) & there[None, :]
        at = sequence * steps + t
        of_gates = at * (width * PARTS) - rows * (width * PARTS) + lanes[None, :]
        of_h = at * width - rows * width + lanes[None, :]
        opens = _opens(reset, at - rows, mask)
        weight, add, given, share, slope, other_slope = _step_back(
            gates + of_gates, dh + of_h, width, mask, opens, PARTS, SIGNED, HARD
        )
        weight, add, later_opens = all_up_to(weight, add, opens, PARTS)
        passed = left_by(onward, weight, add, later_opens, PARTS)
        total = given + row_before(passed, onward)
        onward = last_row(passed)
        before = tl.load(h - width + of_h, mask=mask & (rows < t), other=0.0).to(tl.float32)
        before = tl.where(rows == t, initial[None, :], before)
        before = tl.where(opens != 0, 0.0, before)
        if PARTS == 1:
            tl.store(dgates + of_gates, (total * before).to(dgates.dtype.element_ty), mask=mask)
            tl.store(ddrive + of_h, total.to(ddrive.dtype.element_ty), mask=mask)
        else:
            content, rise = _candidate(gates + of_gates, width, mask, PARTS, CANDIDATE)
            by_share = total * (content - (2.0 * before if SIGNED else before))
            out = dgates + of_gates
            tl.store(out, (by_share * slope).to(out.dtype.element_ty), mask=mask)
            if PARTS == 3:
                tl.store(out + width, (by_share * other_slope).to(out.dtype.element_ty), mask=mask)
            tl.store(out + (PARTS - 1) * width, (total * share * rise).to(out.dtype.element_ty), mask=mask)
    if begin == 0:
        tl.store(dstate + sequence * width + lanes, onward, mask=there)


@triton.jit(do_not_specialize=_ANY)
def backward_totals(
    gates: tl.tensor, reset: tl.tensor, dh: tl.tensor, totals: tl.tensor, steps: tl.tensor, width: tl.tensor,
    length: tl.tensor, plane: tl.tensor,
    PARTS: tl.constexpr, SIGNED: tl.constexpr, HARD: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the totals (3, B, N, D) of the chunks of `backward`, except for the first."""
    sequence, lanes, there = _place(width, LANES)
    begin = (tl.program_id(1) + 1) * length
    end = tl.minimum(begin + length, steps)
    total, done, opened = _nothing(LANES, PARTS)
    rows = tl.arange(0, ROWS)[:, None]
    for tile in tl.range(0, end - begin, ROWS, num_stages=STAGES):
        t = end - 1 - tile
        mask = (t - rows >= begin) & there[None, :]
        at = sequence * steps + t
        of_gates = at * (width * PARTS) - rows * (width * PARTS) + lanes[None, :]
        of_h = at * width - rows * width + lanes[None, :]
        opens = _opens(reset, at - rows, mask)
        weight, add, _, _, _, _ = _step_back(gates + of_gates, dh + of_h, width, mask, opens, PARTS, SIGNED, HARD)
        weight, add, opens = all_up_to(weight, add, opens, PARTS)
        total, done, opened = _and_then(total, done, opened, weight, add, opens, PARTS)
    chunks = tl.num_programs(1) + 1
    _write_total(totals + (sequence * chunks + tl.program_id(1) + 1) * width + lanes, plane, there, total, done, opened)
