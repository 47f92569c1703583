"""Dense layers over a tile of rows.

    hidden = max(x W + b, least), with least = 0 for ReLU and −∞ otherwise      (He & Chua 2017, eq. 6)
    out += x hᵀ                                                                  (eq. 7)

The sums of a row add one input after the other, so that a score does not depend on the rows around it. The matrix
product of a library rounds differently for different numbers of rows.

Gain in the score job (26 fields, K 64, hidden layers 128-128, one core with AVX-512): with the fastest loop found in
plain numba (two rows, four inputs and a panel of 32 columns at a time), the job takes 1.5 to 1.7 times as long.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from nfm.kernels.compile import compile_now
from nfm.kernels.pooling import read_only_array

LANES = 16 if get_host_cpu_features().get("avx512f") else 8  # float32 numbers in a vector register
FLOAT, INT = ir.FloatType(), ir.IntType(64)
VECTOR, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)

# A block has sums for 6 rows and 2 registers of columns: these 12 sums fit into the registers, together with the 6
# numbers and 2 registers of weights that a step reads. AVX-512 has registers for 24 sums, but then LLVM keeps some on
# the stack, which takes 1.4 to 2.4 times as long.
ROWS = 6
COLUMNS = 2 * LANES  # of a panel
_ZERO = np.float32(0)


def make_panels(kernel_XU: NDArray[np.float32], bias_U: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a layer's weights as (P, X, N) and (P, N): panels of N columns, padded with zeros after the last unit."""
    inputs, units = kernel_XU.shape
    count = -(-units // COLUMNS)
    kernel, bias = np.zeros((inputs, count * COLUMNS), np.float32), np.zeros(count * COLUMNS, np.float32)
    kernel[:, :units], bias[:units] = kernel_XU, bias_U
    split = kernel.reshape(inputs, count, COLUMNS).transpose(1, 0, 2)
    return np.ascontiguousarray(split), bias.reshape(count, COLUMNS)


def apply_layer(
    x_TX: NDArray[np.float32],
    kernel_PXN: NDArray[np.float32],
    bias_PN: NDArray[np.float32],
    least: float,
    out_TU: NDArray[np.float32],
    rows: int,
) -> None:
    """Fill out_TU with max(x W + b, least). Releases the GIL.

    Args:
        x_TX: the rows; columns after the kernel's X inputs are ignored.
        kernel_PXN: from `make_panels`.
        bias_PN: from `make_panels`.
        least: 0 for ReLU, or minus infinity.
        out_TU: receives the result; P N columns.
        rows: number of rows. Both arrays have whole blocks of `ROWS` rows, and the last block is computed completely.
    """
    _compiled_layer()(x_TX, kernel_PXN, bias_PN, np.float32(least), out_TU, rows)


def add_products(
    x_TX: NDArray[np.float32], column: int, kernel_CX: NDArray[np.float32], out_TC: NDArray[np.float32], rows: int
) -> None:
    """Add the product of x_TX, from `column` on, and kernel_CX to out_TC; for few outputs C. Releases the GIL."""
    _compiled_products()(x_TX, column, kernel_CX, out_TC, rows)


@cache
def _compiled_layer() -> Any:
    matrix = types.Array(types.float32, 2, "C")
    weights, bias = (read_only_array(types.float32, dimensions) for dimensions in (3, 2))
    return compile_now(types.void(matrix, weights, bias, types.float32, matrix, types.int64), _apply_layer)


@cache
def _compiled_products() -> Any:
    matrix = types.Array(types.float32, 2, "C")
    inputs = read_only_array(types.float32, 2)
    signature = types.void(inputs, types.int64, inputs, matrix, types.int64)
    # Reordering is safe: every row uses the same number of lanes for a sum.
    return compile_now(signature, _add_products, fastmath={"reassoc", "contract"})


def _apply_layer(x_TX: Any, kernel_PXN: Any, bias_PN: Any, least: Any, out_TU: Any, rows: Any) -> None:
    for p in range(len(kernel_PXN)):
        for t in range(0, rows, ROWS):
            _compute_block(x_TX, kernel_PXN, bias_PN, least, out_TU, t, p)  # type: ignore[call-arg]


def _add_products(x_TX: Any, column: Any, kernel_CX: Any, out_TC: Any, rows: Any) -> None:
    for t in range(np.uint64(rows)):
        for c in range(np.uint64(kernel_CX.shape[0])):
            product = _ZERO
            for x in range(np.uint64(kernel_CX.shape[1])):
                product += x_TX[t, np.uint64(column) + x] * kernel_CX[c, x]
            out_TC[t, c] += product


def broadcast(builder: Any, value: Any, vector: Any = VECTOR) -> Any:
    """Return a register with the value in all lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(INTS, [0] * LANES))


@intrinsic
def _compute_block(_: Any, x: Any, kernel: Any, bias: Any, least: Any, out: Any, t: Any, p: Any) -> Any:
    """Compute rows t … t + ROWS − 1 of panel p's columns, with all sums in registers."""
    return types.void(x, kernel, bias, least, out, t, p), _generate_block


def _generate_block(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    arrays = [context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 2, 4)]
    (x, kernel, bias, out), (least, t, p) = (array.data for array in arrays), (arguments[i] for i in (3, 5, 6))
    width, inputs, stride = (builder.extract_value(arrays[i].shape, 1) for i in (0, 1, 3))
    multiply_add = ir.Function(builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32")

    def at(pointer: Any, *steps: Any) -> Any:
        for step in steps:
            pointer = builder.gep(pointer, [step])
        return pointer

    def vector(pointer: Any) -> Any:
        return builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    halves = [INT(0), INT(LANES)]
    rows = [at(x, builder.mul(builder.add(t, INT(row)), width)) for row in range(ROWS)]
    panel = at(kernel, builder.mul(builder.mul(p, inputs), INT(COLUMNS)))
    biases = [vector(at(bias, builder.mul(p, INT(COLUMNS)), half)) for half in halves]
    before = builder.block
    body, done = builder.append_basic_block("inputs"), builder.append_basic_block("done")
    builder.branch(body)

    builder.position_at_end(body)
    i = builder.phi(INT)
    sums = [[builder.phi(VECTOR) for _ in halves] for _ in range(ROWS)]
    weights = [vector(at(panel, builder.mul(i, INT(COLUMNS)), half)) for half in halves]
    new_sums = []
    for row, old in zip(rows, sums, strict=True):
        value = broadcast(builder, builder.load(at(row, i)))
        new_sums.append([builder.call(multiply_add, [value, w, s]) for w, s in zip(weights, old, strict=True)])
    following = builder.add(i, INT(1))
    i.add_incoming(INT(0), before)
    i.add_incoming(following, body)
    for old, new in zip(sums, new_sums, strict=True):
        for half in range(2):
            old[half].add_incoming(biases[half], before)
            old[half].add_incoming(new[half], body)
    builder.cbranch(builder.icmp_unsigned("<", following, inputs), body, done)

    builder.position_at_end(done)
    floor = broadcast(builder, least)
    for row, new in enumerate(new_sums):
        place = at(out, builder.mul(builder.add(t, INT(row)), stride), builder.mul(p, INT(COLUMNS)))
        for half, total in zip(halves, new, strict=True):
            # NaN stays NaN, because the comparison is false.
            kept = builder.select(builder.fcmp_ordered("<", total, floor), floor, total)
            builder.store(kept, builder.bitcast(at(place, half), VECTOR.as_pointer()), align=4)
    return context.get_dummy_value()
