"""The matmul of a few rows with a linear layer's weights, compiled: a tile's sums stay in registers.

Both operands are read along their rows, as torch stores them, without a copy. The tile's sums are vectors, as many
as a vector has lanes; at the end they are reduced together into one, lane by lane. One row reads each weight once
and runs at the speed of the cache; for many rows the tile holds four of them.

Shapes: R rows, K elements of a row, N outputs, L lanes of a vector.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minrl.kernels.jit.compile import FAST

_FLOAT, _WORD, _INDEX = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_SIZE = np.dtype(np.float32).itemsize
_LINE = 16  # float32 elements of a cache line


def _lanes() -> int:
    """Return the lanes of a vector: 16 on a processor with 32 registers of that width, else 8."""
    try:
        return 16 if binding.get_host_cpu_features().get("avx512f") else 8
    except RuntimeError:  # not known for this processor
        return 8


LANES = _lanes()
_room: Any = cgutils.alloca_once
_declare: Any = cgutils.get_or_insert_function
_VECTOR = ir.VectorType(_FLOAT, LANES)


def _tile(rows: int) -> Any:
    """Build the function that writes y (R, count) = x (R, K) @ weight (count, K).T, for count up to LANES / R.

    Its arguments: the addresses of y, x and weight, the row strides of y and x, K, count.
    """
    outputs = LANES // rows

    def build(context: Any, y: Any, x: Any, weight: Any, y_stride: Any, x_stride: Any, size: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            y, x, weight, y_stride, x_stride, size, count = arguments
            of_x = [_moved(builder, x, builder.mul(x_stride, _WORD(r))) for r in range(rows)]
            # Lanes beyond the last output compute it once more.
            last = builder.sub(count, _WORD(1))
            of_weight = []
            for n in range(outputs):
                row = builder.select(builder.icmp_signed("<", _WORD(n), count), _WORD(n), last)
                of_weight.append(_moved(builder, weight, builder.mul(row, size)))
            sums = _summed(builder, of_x, of_weight, size)
            _write(builder, _added_up(builder, sums), y, y_stride, count, rows)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return intrinsic(build)


def _summed(builder: Any, of_x: list[Any], of_weight: list[Any], size: Any) -> list[Any]:
    """Return vectors whose lanes add up to the products of each row with each output."""
    places = [_room(builder, _VECTOR) for _ in range(LANES)]
    for place in places:
        builder.store(ir.Constant(_VECTOR, None), place)
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    multiply_add = _declare(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")

    def add(at: Any, load: Any) -> None:
        xs, weights = [load(row, at) for row in of_x], [load(row, at) for row in of_weight]
        for i, place in enumerate(places):
            factors = [xs[i // len(weights)], weights[i % len(weights)]]
            builder.store(builder.call(multiply_add, [*factors, builder.load(place)]), place)

    def vector(row: Any, at: Any) -> Any:
        return builder.load(_pointer(builder, _moved(builder, row, at), _VECTOR), align=_SIZE)

    def single(row: Any, at: Any) -> Any:
        number = builder.load(_pointer(builder, _moved(builder, row, at), _FLOAT), align=_SIZE)
        return builder.insert_element(ir.Constant(_VECTOR, None), number, _INDEX(0))

    whole = builder.and_(size, _WORD(-LANES))
    with cgutils.for_range_slice(builder, _WORD(0), whole, _WORD(LANES), _WORD) as (at, _):
        add(at, vector)
    with cgutils.for_range_slice(builder, whole, size, _WORD(1), _WORD) as (at, _):
        add(at, single)
    return [builder.load(place) for place in places]


def _added_up(builder: Any, vectors: list[Any]) -> Any:
    """Return one vector whose lanes are the sums over the lanes of each of LANES vectors.

    Each step adds the halves of two vectors, then the quarters, and so on, and places the sums side by side. The sums
    come out in order if the vectors go in by bit-reversed index.
    """
    bits = LANES.bit_length() - 1
    vectors = [vectors[int(f"{i:0{bits}b}"[::-1], 2)] for i in range(LANES)]
    kind = ir.VectorType(_INDEX, LANES)
    for bit in reversed(range(bits)):
        distance = 1 << bit
        # Lanes of a pair of vectors that are added: from the second one where the lane's bit is set.
        lower = [lane - distance + LANES if lane & distance else lane for lane in range(LANES)]
        masks = [ir.Constant(kind, lower), ir.Constant(kind, [lane + distance for lane in lower])]
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks)) for a, b in pairs]
    return vectors[0]


def _write(builder: Any, sums: Any, y: Any, stride: Any, count: Any, rows: int) -> None:
    outputs = LANES // rows
    place = _room(builder, _VECTOR)
    full = builder.icmp_signed("==", count, _WORD(outputs))
    with builder.if_else(full) as (then, otherwise):
        with then:
            for r in range(rows):
                mask = ir.Constant(ir.VectorType(_INDEX, outputs), list(range(r * outputs, (r + 1) * outputs)))
                part = builder.shuffle_vector(sums, sums, mask)
                target = _moved(builder, y, builder.mul(stride, _WORD(r)))
                builder.store(part, _pointer(builder, target, part.type), align=_SIZE)
        with otherwise:
            builder.store(sums, place)
            source = builder.ptrtoint(place, _WORD)
            for r in range(rows):
                target = _moved(builder, y, builder.mul(stride, _WORD(r)))
                with cgutils.for_range(builder, count, intp=_WORD) as loop:
                    number = _moved(builder, source, builder.add(loop.index, _WORD(r * outputs)))
                    value = builder.load(_pointer(builder, number, _FLOAT), align=_SIZE)
                    builder.store(value, _pointer(builder, _moved(builder, target, loop.index), _FLOAT), align=_SIZE)


def _moved(builder: Any, address: Any, numbers: Any) -> Any:
    return builder.add(address, builder.mul(numbers, _WORD(_SIZE)))


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


_tile_of_one, _tile_of_two, _tile_of_four = _tile(1), _tile(2), _tile(4)


def _linear(x: Any, weight: Any, bias: Any, y: Any, rows: int, size: int, outputs: int) -> None:
    """Compute y (R, N) = x (R, K) @ weight (N, K).T + bias (N,), all flat; an empty bias is none."""
    # The caller keeps the arrays alive while their addresses are in use.
    to, of, by = y.ctypes.data, x.ctypes.data, weight.ctypes.data
    fours, twos = rows - rows % 4, rows - rows % 2
    if fours:
        for o in range(0, outputs, LANES // 4):
            count = min(LANES // 4, outputs - o)
            for r in range(0, fours, 4):
                at, row = to + (r * outputs + o) * _SIZE, of + r * size * _SIZE
                _tile_of_four(at, row, by + o * size * _SIZE, outputs, size, size, count)
    if twos > fours:
        at, row = to + fours * outputs * _SIZE, of + fours * size * _SIZE
        for o in range(0, outputs, LANES // 2):
            count = min(LANES // 2, outputs - o)
            _tile_of_two(at + o * _SIZE, row, by + o * size * _SIZE, outputs, size, size, count)
    if rows > twos:
        at, row = to + twos * outputs * _SIZE, of + twos * size * _SIZE
        for o in range(0, outputs, LANES):
            _tile_of_one(at + o * _SIZE, row, by + o * size * _SIZE, outputs, size, size, min(LANES, outputs - o))
    if bias.size:
        for r in range(rows):
            for o in range(outputs):
                y[r * outputs + o] += bias[o]


# Not inlined: it is long, and called from a dozen places.
linear: Any = numba.njit(fastmath=FAST, error_model="numpy")(_linear)


def _aligned(size: int) -> Any:
    """Allocate float32 elements at the start of a cache line, so that no vector load crosses two lines."""
    room = np.empty(size + _LINE, np.float32)
    first = (-room.ctypes.data // _SIZE) % _LINE
    return room[first : first + size]


aligned: Any = numba.njit(error_model="numpy")(_aligned)
