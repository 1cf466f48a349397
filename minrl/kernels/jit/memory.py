"""Arrays at addresses, and prefetching of cache lines, for compiled kernels."""

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minrl.kernels.jit.compile import inlined


def _float32_address(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    pointer: Any = types.CPointer
    return pointer(types.float32)(types.int64), generate


declare_function: Any = cgutils.get_or_insert_function


# A pointer to float32 elements, from an integer.
float32_at: Any = intrinsic(_float32_address)


def _prefetch(write: bool) -> Any:
    """Build the function (array, index) that prefetches a cache line; an index out of range is harmless."""

    def build(context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
            word = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
            call = declare_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(call, [address, word(int(write)), word(3), word(1)])
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return intrinsic(build)


prefetch_read, prefetch_write = _prefetch(write=False), _prefetch(write=True)


carray: Any = numba.carray  # type: ignore[attr-defined]


def _typed_address(context: Any, address: Any, like: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    pointer: Any = types.CPointer
    return pointer(like)(types.int64, like), generate


_at: Any = intrinsic(_typed_address)


@inlined
def vector(address: int, size: int, like: Any) -> Any:
    """Return the elements of the type of `like` that lie at `address`, none at 0."""
    return carray(_at(address, like), (size if address else 0,))


@inlined
def matrix(address: int, rows: int, width: int, like: Any) -> Any:
    """Return the same as rows of `width` elements."""
    return carray(_at(address, like), (rows if address else 0, width))
