"""Matmul inside compiled code, in float32 and float64: a tile of the output stays in registers.

One form serves all products of a layer and its backward pass: the rows of the second factor are read as vectors, the
elements of the first one by one, at any distance from each other, so that its transpose needs no copy.

Shapes: R rows, K elements that are summed, N outputs, L lanes of a vector.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from minrl.kernels.backbone.gemv import LANES
from minrl.kernels.jit.compile import addressed, uncounted

# Six rows of four vectors are 24 sums, which with the factors fill 32 registers; of 16 registers, two vectors.
ROWS, VECTORS = 6, 4 if LANES == 16 else 2
# Elements that are summed before a tile is stored: as many rows of w stay in the L2 cache.
_DEPTH = 512
_WORD, _INDEX = ir.IntType(64), ir.IntType(32)
_room: Any = cgutils.alloca_once
_declare: Any = cgutils.get_or_insert_function


def _tile(rows: int, vectors: int) -> Any:
    """Build an intrinsic that computes a tile (R, V * L), or (R, count) with count < L for no vectors.

    Its arguments: the addresses of y, x, w and of what the sums start with (0 for zero); the elements from row to row
    of y and x, from column to column of x, from row to row of w and of the start; K, count, and an element.
    """

    def build(context: Any, *signature: Any) -> Any:
        like = signature[-1]
        size = 4 if like == types.float32 else 8
        lanes = LANES if size == 4 else LANES // 2
        kind = ir.FloatType() if size == 4 else ir.DoubleType()
        vector = ir.VectorType(kind, lanes)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            y, x, w, start, next_y, next_x, across, next_w, next_start, depth, count, _ = arguments
            suffix = f"v{lanes}f{8 * size}"
            fused = _declare(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{suffix}")
            nothing, mask = ir.Constant(vector, None), None
            if not vectors:
                numbers = ir.Constant(ir.VectorType(_WORD, lanes), list(range(lanes)))
                mask = builder.icmp_signed("<", numbers, _splat(builder, count, lanes))

            def moved(address: Any, elements: Any) -> Any:
                return builder.add(address, builder.mul(elements, _WORD(size)))

            def load(address: Any) -> Any:
                pointer = builder.inttoptr(address, vector.as_pointer())
                if mask is None:
                    return builder.load(pointer, align=size)
                form = ir.FunctionType(vector, [pointer.type, _INDEX, mask.type, vector])
                masked = _declare(builder.module, form, f"llvm.masked.load.{suffix}.p0")
                return builder.call(masked, [pointer, _INDEX(size), mask, nothing])

            def store(value: Any, address: Any) -> None:
                pointer = builder.inttoptr(address, vector.as_pointer())
                if mask is None:
                    builder.store(value, pointer, align=size)
                    return
                form = ir.FunctionType(ir.VoidType(), [vector, pointer.type, _INDEX, mask.type])
                masked = _declare(builder.module, form, f"llvm.masked.store.{suffix}.p0")
                builder.call(masked, [value, pointer, _INDEX(size), mask])

            columns = [_WORD(lanes * v) for v in range(max(vectors, 1))]
            sums = [[_room(builder, vector) for _ in columns] for _ in range(rows)]
            with builder.if_else(builder.icmp_signed("==", start, _WORD(0))) as (then, otherwise):
                with then:
                    for place in (place for row in sums for place in row):
                        builder.store(nothing, place)
                with otherwise:
                    for r, row in enumerate(sums):
                        first = moved(start, builder.mul(next_start, _WORD(r)))
                        for column, place in zip(columns, row, strict=True):
                            builder.store(load(moved(first, column)), place)
            of_x = [moved(x, builder.mul(next_x, _WORD(r))) for r in range(rows)]
            with cgutils.for_range(builder, depth, intp=_WORD) as loop:
                first = moved(w, builder.mul(next_w, loop.index))
                factors = [load(moved(first, column)) for column in columns]
                step = builder.mul(across, loop.index)
                for address, row in zip(of_x, sums, strict=True):
                    pointer = builder.inttoptr(moved(address, step), kind.as_pointer())
                    element = _splat(builder, builder.load(pointer, align=size), lanes)
                    for factor, place in zip(factors, row, strict=True):
                        builder.store(builder.call(fused, [element, factor, builder.load(place)]), place)
            for r, row in enumerate(sums):
                first = moved(y, builder.mul(next_y, _WORD(r)))
                for column, place in zip(columns, row, strict=True):
                    store(builder.load(place), moved(first, column))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11, like), generate

    # An intrinsic takes its arguments by name.
    def tile(
        context: Any, y: Any, x: Any, w: Any, start: Any, next_y: Any, next_x: Any, across: Any, next_w: Any,
        next_start: Any, depth: Any, count: Any, like: Any,
    ) -> Any:  # fmt: skip
        return build(context, like)

    return intrinsic(tile)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _INDEX(0))
    zeros = ir.Constant(ir.VectorType(_INDEX, lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


_six_wide, _six_one, _six_part = _tile(ROWS, VECTORS), _tile(ROWS, 1), _tile(ROWS, 0)
_two_wide, _two_one, _two_part = _tile(2, VECTORS), _tile(2, 1), _tile(2, 0)
_one_wide, _one_one, _one_part = _tile(1, VECTORS), _tile(1, 1), _tile(1, 0)


def lanes_of(like: Any) -> tuple[int, int]:
    """Return the lanes of a vector and the bytes of an element of the type of `like`."""
    return (LANES, 4) if np.asarray(like).dtype == np.float32 else (LANES // 2, 8)


def _lanes_of(like: Any) -> Any:
    found = (LANES, 4) if like == types.float32 else (LANES // 2, 8)

    def constant(like: Any) -> Any:
        return found

    return constant


overload(lanes_of)(_lanes_of)


@uncounted
def _panel(
    y: int, x: int, w: int, start: int, next_y: int, next_x: int, across: int, next_w: int, next_start: int,
    rows: int, depth: int, vectors: int, count: int, size: int, like: Any,
) -> None:  # fmt: skip
    """Compute all rows of a panel of columns: VECTORS or one vector wide, or `count` elements for none."""
    r = 0
    while r < rows:
        a, b, c = y + r * next_y * size, x + r * next_x * size, start + r * next_start * size if start else 0
        if rows - r >= ROWS:
            if vectors == VECTORS:
                _six_wide(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            elif vectors == 1:
                _six_one(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            else:
                _six_part(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            r += ROWS
        elif rows - r >= 2:
            if vectors == VECTORS:
                _two_wide(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            elif vectors == 1:
                _two_one(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            else:
                _two_part(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            r += 2
        else:
            if vectors == VECTORS:
                _one_wide(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            elif vectors == 1:
                _one_one(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            else:
                _one_part(a, b, w, c, next_y, next_x, across, next_w, next_start, depth, count, like)
            r += 1


def _product(
    y: int, x: int, w: int, start: int, next_y: int, next_x: int, across: int, next_w: int, next_start: int,
    rows: int, depth: int, outputs: int, like: Any,
) -> None:  # fmt: skip
    """Compute y (R, N) = start (R, N) + x (R, K) @ w (K, N), from addresses and distances as those of a tile."""
    lanes, size = lanes_of(like)
    for k in range(0, max(depth, 1), _DEPTH):
        part = min(_DEPTH, depth - k)
        of_x, of_w = x + k * across * size, w + k * next_w * size
        begin, stride = (start, next_start) if k == 0 else (y, next_y)
        n = 0
        while n < outputs:
            left = outputs - n
            vectors = VECTORS if left >= VECTORS * lanes else 1 if left >= lanes else 0
            columns = vectors * lanes if vectors else left
            _panel(
                y + n * size, of_x, of_w + n * size, begin + n * size if begin else 0, next_y, next_x, across, next_w,
                stride, rows, part, vectors, columns, size, like,
            )  # fmt: skip
            n += columns


@cache
def product_address(dtype: Any) -> int:
    """Return the address of the compiled product in float32 or float64, for `product`."""
    kind = types.float32 if np.dtype(dtype) == np.float32 else types.float64

    def run(
        y: int, x: int, w: int, start: int, next_y: int, next_x: int, across: int, next_w: int, next_start: int,
        rows: int, depth: int, outputs: int, like: Any,
    ) -> None:  # fmt: skip
        _product_part(y, x, w, start, next_y, next_x, across, next_w, next_start, rows, depth, outputs, like)

    return addressed(run, types.void(*[types.int64] * 12, kind))


_product_part: Any = uncounted(_product)


def _call(
    context: Any, address: Any, y: Any, x: Any, w: Any, start: Any, next_y: Any, next_x: Any, across: Any, next_w: Any,
    next_start: Any, rows: Any, depth: Any, outputs: Any, like: Any,
) -> Any:  # fmt: skip
    """Call the product at `address`: y (R, N) = start (R, N) + x (R, K) @ w (K, N)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, *rest = arguments
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in rest])
        builder.call(builder.inttoptr(at, kind.as_pointer()), rest)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 13, like), generate


product: Any = intrinsic(_call)
