"""Matrix products over batches, in the layout that the network's loops share.

A matrix (B, U) lies as panels (P, B, N): N columns side by side, row for row, so that a block of rows is one piece of
memory whichever operand of a product it is. Columns behind the last one are zeros. A product's block has its sums in
registers; LLVM does not find to this by itself, and a library's product takes longer at these sizes
(docs/performance.md).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numpy.typing import NDArray

from nfm.kernels.registers import INT, LANES, VECTOR, intrinsic, load, spread, store

N = 2 * LANES  # columns of a panel: two registers
ROWS = 8 if LANES == 16 else 4  # whose sums of N columns, with the operands, fit into the registers
_TOGETHER = 128  # rows of a sum over the batch: of both operands' panels, they are in the first cache

inlined: Any = njit(inline="always", error_model="numpy")


def panels_of(columns: int) -> int:
    """How many panels hold so many columns."""
    return -(-columns // N)


def padded(vector: NDArray[Any], columns: int) -> NDArray[Any]:
    """A number for each column, with zeros up to the end of the last panel."""
    whole = np.zeros(panels_of(columns) * N, vector.dtype)
    whole[:columns] = vector
    return whole


def packed(kernel_XU: NDArray[np.float32], panels: int) -> NDArray[np.float32]:
    """(Q, P N, N): a layer's weights as the second operand of a product whose first one has so many panels P."""
    inputs, units = kernel_XU.shape
    whole = np.zeros((panels * N, panels_of(units) * N), np.float32)
    whole[:inputs, :units] = kernel_XU
    return np.ascontiguousarray(whole.reshape(len(whole), -1, N).transpose(1, 0, 2))


def unpacked(kernel_QXN: NDArray[np.float32], inputs: int, units: int) -> NDArray[np.float32]:
    """(X, U): what `packed` made."""
    return kernel_QXN.transpose(1, 0, 2).reshape(kernel_QXN.shape[1], -1)[:inputs, :units]


@inlined
def multiply(start: int, stop: int, a_PBN: Any, kernel_QXN: Any, bias_QN: Any, out_QBN: Any) -> None:
    """Rows from start up to stop of a W + b; B is a multiple of ROWS, and the last block's rows are all written."""
    rows, inputs = a_PBN.shape[1], kernel_QXN.shape[1]
    for q in range(kernel_QXN.shape[0]):
        left, right = load(bias_QN, q * N), load(bias_QN, q * N + LANES)
        for t in range(start, stop, ROWS):
            out_at = (q * rows + t) * N
            for r in range(ROWS):
                store(out_QBN, out_at + r * N, left)
                store(out_QBN, out_at + r * N + LANES, right)
            for p in range(a_PBN.shape[0]):
                at, kernel_at = (p * rows + t) * N, (q * inputs + p * N) * N
                _add_block(a_PBN, at, N, 1, kernel_QXN, kernel_at, N, out_QBN, out_at)


@inlined
def add_outer(start: int, stop: int, a_PBN: Any, b_QBN: Any, place: int, out_IQXN: Any) -> None:
    """out[place] += aᵀ b over the rows from start up to stop."""
    rows, panels, width = a_PBN.shape[1], b_QBN.shape[0], out_IQXN.shape[2]
    for first in range(start, stop, _TOGETHER):
        count = min(_TOGETHER, stop - first)
        for p in range(a_PBN.shape[0]):
            for q in range(panels):
                for column in range(0, N, ROWS):
                    a_at, b_at = (p * rows + first) * N + column, (q * rows + first) * N
                    out_at = ((place * panels + q) * width + p * N + column) * N
                    _add_block(a_PBN, a_at, 1, N, b_QBN, b_at, count, out_IQXN, out_at)


@intrinsic
def _add_block(
    _: Any, a: Any, a_at: Any, a_row: Any, a_step: Any, b: Any, b_at: Any, count: Any, out: Any, out_at: Any
) -> Any:
    """out[r, n] += Σ a[r, i] b[i, n] for ROWS rows, N columns and i < count, which is not 0.

    Arrays are C-contiguous float32; `at` is an element's place in all of one. a's rows are `a_row` elements apart, and
    its columns `a_step`; those of b and out lie side by side.
    """
    return types.void(a, a_at, a_row, a_step, b, b_at, count, out, out_at), _generate


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    def start(array: int, at: int) -> Any:
        data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
        return builder.gep(data, [number(at)])

    def number(at: int) -> Any:
        return context.cast(builder, arguments[at], signature.args[at], types.intp)

    def place(pointer: Any, half: int) -> Any:
        return builder.bitcast(builder.gep(pointer, [INT(half * LANES)]), VECTOR.as_pointer())

    form, name = ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
    multiply_add = cgutils.get_or_insert_function(builder.module, form, name)
    a, b, out = start(0, 1), start(4, 5), start(7, 8)
    a_row, a_step, count = number(2), number(3), number(6)
    rows = [builder.gep(a, [builder.mul(a_row, INT(row))]) for row in range(ROWS)]
    outs = [place(builder.gep(out, [INT(row * N)]), half) for row in range(ROWS) for half in range(2)]
    begun = [builder.load(pointer, align=4) for pointer in outs]
    before = builder.block
    body, behind = builder.append_basic_block("products"), builder.append_basic_block("done")
    builder.branch(body)

    builder.position_at_end(body)
    i = builder.phi(INT)
    sums = [builder.phi(VECTOR) for _ in outs]
    of_b = builder.gep(b, [builder.mul(i, INT(N))])
    halves = [builder.load(place(of_b, half), align=4) for half in range(2)]
    grown = []
    for row, pointer in enumerate(rows):
        value = spread(builder, builder.load(builder.gep(pointer, [builder.mul(i, a_step)])))
        grown += [builder.call(multiply_add, [value, halves[half], sums[2 * row + half]]) for half in range(2)]
    following = builder.add(i, INT(1))
    i.add_incoming(INT(0), before)
    i.add_incoming(following, body)
    for total, first, new in zip(sums, begun, grown, strict=True):
        total.add_incoming(first, before)
        total.add_incoming(new, body)
    builder.cbranch(builder.icmp_signed("<", following, count), body, behind)

    builder.position_at_end(behind)
    for pointer, new in zip(outs, grown, strict=True):
        builder.store(new, pointer, align=4)
    return context.get_dummy_value()
