"""Arrays at addresses, and prefetching of cache lines, for compiled kernels."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

declare_function: Any = cgutils.get_or_insert_function


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


def _array_at(address: Any, sizes: Sequence[Any], like: Any) -> Any:
    """Build the function (address, *sizes, like) that returns an array whose memory is not counted, none at 0."""
    found = types.Array(like, len(sizes), "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, rows, *others, _ = arguments
        array = context.make_array(found)(context, builder)
        rows = builder.select(builder.icmp_unsigned("==", at, at.type(0)), rows.type(0), rows)
        strides = [at.type(context.get_abi_sizeof(context.get_data_type(like)))]
        for length in reversed(others):
            strides.insert(0, builder.mul(strides[0], length))
        data = builder.inttoptr(at, array.data.type)
        populate(array, data=data, shape=[rows, *others], strides=strides, itemsize=strides[-1], meminfo=None)
        return array._getvalue()

    return found(address, *sizes, like), generate


populate: Any = populate_array


def _vector(context: Any, address: Any, size: Any, like: Any) -> Any:
    return _array_at(address, [size], like)


def _matrix(context: Any, address: Any, rows: Any, width: Any, like: Any) -> Any:
    return _array_at(address, [rows, width], like)


# The elements of the type of `like` that lie at an address, none at 0: a number of them, or rows of some width.
vector: Any = intrinsic(_vector)
matrix: Any = intrinsic(_matrix)
