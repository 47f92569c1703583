"""Gather and pool in one loop: a row's embeddings are read where they lie, and summed up as they come.

NumPy would copy all of them, (B, F, K), before it adds the first two.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from nfm.kernels.compile import compiled
from nfm.kernels.prefetch import prefetch
from nfm.kernels.registers import FLOAT, INT, INTS, LANES, VECTOR, spread

_REBIAS = 2.0**112  # exponents of float16 count from 15, of float32 from 127
_SIGN_EXPONENT_FRACTION = 0x8FFFE000 - (1 << 32)  # bits of a float16, in their places in a float32
_HALF, _ONE = np.float32(0.5), np.float32(1.0)
_WIDE = 4 * LANES  # columns whose sums are held in registers
_TABLES = {"float32": types.float32, "float16": types.uint16}  # numba has no float16: it is told of the bits


def read_only(dtype: Any, dimensions: int, layout: Literal["C", "A"] = "A") -> Any:
    """The type of an array that is only read."""
    return types.Array(dtype, dimensions, layout, readonly=True)  # what is memory-mapped may not be written


@cache
def linear_and_pooled(dtype: str) -> Callable[..., None]:
    """The loop over the rows of a tile, compiled for a table of this type (float16 seen as uint16).

    Returns:
        A function that lets other threads run, and returns nothing. Its arguments:
            embedding (R, K), linear (R, C), bias (C,): the weights.
            offsets (F,): the first row of each field's block; first_number: that of the numbers.
            ids_BF, values_BN, bag_rows (P,), bag_values (P,), bag_splits (B + 1,): as `contract.encoder.Inputs` has
                them. Rows `start` to `stop` are looked at.
            sums (2, K): scratch.
            linear_TC, pooled_TK: receive w_0 + Σ w_i x_i and the Bi-Interaction pooling (paper, eq. 2 and 4). A row's
                features are added one by one, in one order: equal rows have equal sums, bit for bit.
    """
    out, scratch = types.Array(types.float32, 2, "A"), types.Array(types.float32, 2, "C")
    return compiled(types.void(*weights_and_rows(dtype), types.int64, types.int64, scratch, out, out), _pool)


def weights_and_rows(dtype: str) -> list[Any]:
    """The types of a loop's arguments, from embedding to bag_splits."""
    table, floats, ints = (
        read_only(_TABLES[dtype], 2, "C"),
        read_only(types.float32, 1, "C"),
        read_only(types.int64, 1, "C"),
    )
    rows = [read_only(types.int32, 2), read_only(types.float32, 2), read_only(types.int32, 1, "C"), floats, ints]
    return [table, read_only(types.float32, 2, "C"), floats, ints, types.int64, *rows]


def _pool(
    embedding: Any,
    linear: Any,
    bias: Any,
    offsets: Any,
    first_number: Any,
    ids_BF: Any,
    values_BN: Any,
    bag_rows: Any,
    bag_values: Any,
    bag_splits: Any,
    start: Any,
    stop: Any,
    sums: Any,
    linear_TC: Any,
    pooled_TK: Any,
) -> None:
    sum_K, squares_K = sums[0], sums[1]
    listed = room(bag_splits, offsets, values_BN, start, stop)
    for t in range(np.uint64(stop - start)):
        b = np.uint64(start) + t
        rows = (ids_BF, values_BN, bag_rows, bag_values, bag_splits)
        ask_for(embedding, linear, offsets, rows, min(b + np.uint64(1), np.uint64(stop - 1)))
        sum_up(embedding, linear, bias, offsets, first_number, rows, b, listed, sum_K, squares_K, linear_TC, t)
        for k in range(np.uint64(embedding.shape[1])):
            pooled_TK[t, k] = _HALF * (sum_K[k] * sum_K[k] - squares_K[k])


@njit(inline="always")
def ask_for(embedding: Any, linear: Any, offsets: Any, rows: Any, b: Any) -> None:
    """Ask for the weights of row b's features, while another row is worked on: for loops to call."""
    ids_BF, _, bag_rows, _, bag_splits = rows
    for f in range(np.uint64(len(offsets))):
        prefetch(embedding, offsets[f] + ids_BF[b, f])
        prefetch(linear, offsets[f] + ids_BF[b, f])
    for p in range(np.uint64(bag_splits[b]), np.uint64(bag_splits[b + np.uint64(1)])):
        prefetch(embedding, bag_rows[p])
        prefetch(linear, bag_rows[p])


@njit(inline="always")
def room(bag_splits: Any, offsets: Any, values_BN: Any, start: Any, stop: Any) -> Any:
    """Scratch for `sum_up`: the rows and the x of the features of any row from start to stop."""
    most = 0
    for b in range(start, stop):
        most = max(most, bag_splits[b + 1] - bag_splits[b])
    most += len(offsets) + values_BN.shape[1]
    return np.empty(most, np.int64), np.empty(most, np.float32)


@njit(inline="always")
def sum_up(
    embedding: Any,
    linear: Any,
    bias: Any,
    offsets: Any,
    first_number: Any,
    rows: Any,
    b: Any,
    features: Any,
    sum_K: Any,
    squares_K: Any,
    linear_TC: Any,
    t: Any,
) -> None:
    """The sums of row b's features, Σ x v and Σ (x v)² and, in row t, w_0 + Σ w x: for loops to call."""
    ids_BF, values_BN, bag_rows, bag_values, bag_splits = rows
    rows_M, x_M = features
    # Indices have no sign: one with a sign may count from the end, and is looked at each time.
    # Two indices rather than a view of a row: who looks on is counted, each time, by locking the counter. And loops
    # rather than slices: numba takes three seconds to compile what it has for an assignment to a slice.
    count = np.uint64(0)
    for f in range(np.uint64(len(offsets))):
        rows_M[count], x_M[count] = offsets[f] + ids_BF[b, f], _ONE
        count += np.uint64(1)
    for n in range(np.uint64(values_BN.shape[1])):
        rows_M[count], x_M[count] = np.uint64(first_number) + n, values_BN[b, n]
        count += np.uint64(1)
    for p in range(np.uint64(bag_splits[b]), np.uint64(bag_splits[b + np.uint64(1)])):
        rows_M[count], x_M[count] = bag_rows[p], bag_values[p]
        count += np.uint64(1)

    for c in range(np.uint64(linear.shape[1])):
        linear_TC[t, c] = bias[c]
        for m in range(count):
            linear_TC[t, c] += x_M[m] * linear[np.uint64(rows_M[m]), c]
    dim, done = np.uint64(embedding.shape[1]), np.uint64(0)
    while done + np.uint64(_WIDE) <= dim:
        _sum_wide(embedding, rows_M, x_M, count, done, sum_K, squares_K)  # type: ignore[call-arg]
        done += np.uint64(_WIDE)
    for k in range(done, dim):
        sum_K[k], squares_K[k] = 0, 0
    for m in range(count):
        row, x = np.uint64(rows_M[m]), x_M[m]
        for k in range(done, dim):
            value = x * as_float32(embedding[row, k])  # type: ignore[call-arg]
            sum_K[k] += value
            squares_K[k] += value * value


@intrinsic
def _sum_wide(_: Any, table: Any, rows: Any, x: Any, count: Any, start: Any, sums: Any, squares: Any) -> Any:
    """Σ x v and Σ (x v)² of `_WIDE` columns from `start` on, in registers until all features are added."""
    return types.void(table, rows, x, count, start, sums, squares), _generate


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    made = [context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 2, 5, 6)]
    table, rows, x, sums, squares = (array.data for array in made)
    width, (count, start) = builder.extract_value(made[0].shape, 1), arguments[3:5]
    stored = ir.IntType(16) if signature.args[0].dtype == types.uint16 else FLOAT
    parts = range(_WIDE // LANES)

    def vectors(pointer: Any, of: Any) -> list[Any]:
        places = [builder.gep(pointer, [INT(part * LANES)]) for part in parts]
        return [builder.bitcast(place, ir.VectorType(of, LANES).as_pointer()) for place in places]

    zero, before = ir.Constant(VECTOR, [0.0] * LANES), builder.block
    body, behind = builder.append_basic_block("features"), builder.append_basic_block("summed")
    builder.cbranch(builder.icmp_unsigned(">", count, INT(0)), body, behind)

    builder.position_at_end(body)
    m, old = builder.phi(INT), [[builder.phi(VECTOR) for _ in parts] for _ in range(2)]
    row = builder.load(builder.gep(rows, [m]))
    factor = spread(builder, builder.load(builder.gep(x, [m])))
    read = vectors(builder.gep(table, [builder.add(builder.mul(row, width), start)]), stored)
    # As many bytes as a number has: the rows of a table need not begin at more.
    loaded = [builder.load(pointer, align=2 if stored != FLOAT else 4) for pointer in read]
    if stored != FLOAT:
        loaded = [
            _widened(builder, vector, INTS, VECTOR, lambda n, of: ir.Constant(of, [n] * LANES)) for vector in loaded
        ]
    values = [builder.fmul(factor, vector) for vector in loaded]
    new = [
        [builder.fadd(sum_, value) for sum_, value in zip(old[0], values, strict=True)],
        [builder.fadd(sum_, builder.fmul(value, value)) for sum_, value in zip(old[1], values, strict=True)],
    ]
    following = builder.add(m, INT(1))
    m.add_incoming(INT(0), before)
    m.add_incoming(following, body)
    for kind in range(2):
        for part in parts:
            old[kind][part].add_incoming(zero, before)
            old[kind][part].add_incoming(new[kind][part], body)
    builder.cbranch(builder.icmp_unsigned("<", following, count), body, behind)

    builder.position_at_end(behind)
    totals = [[builder.phi(VECTOR) for _ in parts] for _ in range(2)]
    for of, grown, pointer in zip(totals, new, (sums, squares), strict=True):
        for total, value, place in zip(of, grown, vectors(builder.gep(pointer, [start]), FLOAT), strict=True):
            total.add_incoming(zero, before)
            total.add_incoming(value, body)
            builder.store(total, place, align=4)
    return context.get_dummy_value()


@intrinsic
def as_float32(_: Any, value: Any) -> Any:
    """A float32 as it is; of the bits of a finite float16, the same number."""

    def same(__: Any, ___: Any, ____: Any, arguments: Any) -> Any:
        return arguments[0]

    def widened(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return _widened(builder, arguments[0], ir.IntType(32), FLOAT, lambda number, of: of(number))

    return types.float32(value), same if value == types.float32 else widened


def _widened(builder: Any, value: Any, ints: Any, floats: Any, constant: Callable[[Any, Any], Any]) -> Any:
    bits = builder.shl(builder.sext(value, ints), constant(13, ints))  # repeats the sign
    bits = builder.and_(bits, constant(_SIGN_EXPONENT_FRACTION, ints))
    return builder.fmul(builder.bitcast(bits, floats), constant(_REBIAS, floats))
