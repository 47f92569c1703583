"""Memory that will be read soon is asked for now: loops over tables larger than the caches wait for little else."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_LINE = 64  # bytes of a cache line
_generate: Any = cgutils


def _ask(_: Any, table: Any, row: Any) -> Any:
    """Ask for a row of a C-contiguous table, so that it is in the cache by the time it is read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        size = _generate.unpack_tuple(builder, array.strides)[0]
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        start = builder.bitcast(array.data, byte)
        start = builder.gep(
            start, [builder.mul(context.cast(builder, arguments[1], signature.args[1], types.intp), size)]
        )
        form = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = _generate.get_or_insert_function(builder.module, form, "llvm.prefetch")
        for_reading, keep, data = ir.Constant(number, 0), ir.Constant(number, 3), ir.Constant(number, 1)
        with _generate.for_range_slice(builder, size.type(0), size, size.type(_LINE)) as (at, _):
            builder.call(ask, [builder.gep(start, [at]), for_reading, keep, data])
        return context.get_dummy_value()

    return types.void(table, row), generate


prefetch: Any = intrinsic(_ask)  # for compiled loops: (table, row) → nothing
